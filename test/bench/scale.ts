// SPDX-License-Identifier: Apache-2.0

/**
 * One service, two hundred guests: stand-ins in a process of their own, each with a channel and a region, which speak a frontend's
 * protocol and load nothing. What the service needs for each, and how long it takes to reach all. Times are from the first request to
 * the last answer.
 */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { atMost, median, report } from '../harness/figure.ts';
import { StandInPeer } from '../harness/stand-in-fleet.ts';
import { StandInService } from '../harness/stand-in-service.ts';

const guests = 200;
/** What a service takes for itself is measured with these. */
const few = 2;
const rounds = 3;
const windowMs = 10_000;

/** In kB: what the process has for itself; its regions are shared. */
function ownMemory(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? Number.NaN);
  return field('RssAnon');
}

interface Scale {
  readonly activeMs: number;
  readonly attachMs: readonly number[];
  readonly detachMs: readonly number[];
  readonly ownKb: number;
  readonly cpuPercent: number;
}

async function measure(place: string, number: number): Promise<Scale> {
  await using service = await StandInService.start(place, number);
  const { client, pid, activeMs } = service;
  const names = (await client.guests()).map(({ name }) => name);
  const attachMs: number[] = [];
  const detachMs: number[] = [];
  const timed = async (
    into: number[],
    work: (name: string) => Promise<readonly { readonly ok: boolean }[]>,
  ) => {
    const beganMs = performance.now();
    const results = (await Promise.all(names.map(work))).flat();
    into.push(performance.now() - beganMs);
    if (results.length !== names.length || results.some(({ ok }) => !ok)) throw new Error('one was refused');
  };
  const request = { probes: ['signal'], parameters: [], self_test: false, force: false };
  for (let round = 0; round <= rounds; round += 1) {
    await timed(attachMs, (name) => client.attach(name, request));
    if (round < rounds) await timed(detachMs, (name) => client.detach(name, ['signal']));
  }
  const cpuPercent = (await service.idleShare(windowMs)) * 100;
  return { activeMs, attachMs, detachMs, ownKb: ownMemory(pid), cpuPercent };
}

async function main(): Promise<void> {
  const place = mkdtempSync(join(tmpdir(), 'vesper-bench-scale-'));
  const peers: StandInPeer[] = [];
  try {
    for (let number = 0; number < guests; number += 1) peers.push(await StandInPeer.start(place, number));
    const little = await measure(place, few);
    rmSync(join(place, 'state'), { recursive: true });
    const all = await measure(place, guests);
    report('scale_200_sessions_active_after_start', all.activeMs, 'ms');
    report('scale_200_attach', median(all.attachMs), 'ms', atMost(10_000));
    report('scale_200_attach_each', median(all.attachMs) / guests, 'ms');
    report('scale_200_detach', median(all.detachMs), 'ms');
    report('scale_memory_each_guest', (all.ownKb - little.ownKb) / 1024 / (guests - few), 'MiB', atMost(2));
    report('scale_memory_200_guests', all.ownKb / 1024, 'MiB');
    report('scale_idle_cpu_200_guests', all.cpuPercent, '%');
  } finally {
    for (const peer of peers) await peer[Symbol.asyncDispose]();
    rmSync(place, { recursive: true, force: true });
  }
}

await main();
