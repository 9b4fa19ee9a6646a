// SPDX-License-Identifier: Apache-2.0

/**
 * One service, two hundred guests: stand-ins in a process of their own, each with a channel and a region, which speak a frontend's
 * protocol and load nothing. What the service needs for each, and how long it takes to reach all. Times are from the first request to
 * the last answer.
 */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient } from '../../host/api/client.ts';
import { ApiServer } from '../../host/api/server.ts';
import { silentLog } from '../../host/log.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import { apiSocketPath, defaultHeartbeatMs, defaultRegionBytes } from '../../host/service/config.ts';
import { Service } from '../../host/service/service.ts';
import { atMost, median, report } from '../harness/figure.ts';
import { repository } from '../harness/rig.ts';
import { StandInPeer, StandInProvider } from '../harness/stand-in-fleet.ts';

const guests = 200;
/** What a service takes for itself is measured with these. */
const few = 2;
const rounds = 3;
const windowMs = 10_000;
const patienceMs = 120_000;

const [directory, count] = process.argv.slice(2);

/** As `vesper serve`, with the stand-ins as its guests. */
async function serve(place: string, number: number): Promise<void> {
  const hub = new RelayHub();
  const service = new Service({
    log: silentLog(),
    relays: hub,
    providers: [new StandInProvider(place, number)],
    config: {
      runDirectory: join(place, 'run'),
      stateDirectory: join(place, 'state'),
      catalogueRoots: [join(repository, 'build')],
      regionBytes: defaultRegionBytes,
      heartbeatMs: defaultHeartbeatMs,
    },
  });
  const api = new ApiServer(service);
  process.once('SIGTERM', async () => {
    await api.stop();
    await service.stop();
    hub.close();
    process.disconnect();
  });
  await api.start();
  await service.start();
  process.send?.('started');
}

/** In kB: what the process has for itself; its regions are shared. */
function ownMemory(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? Number.NaN);
  return field('RssAnon');
}

/** User and system time so far, in seconds. */
function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

interface Scale {
  readonly activeMs: number;
  readonly attachMs: readonly number[];
  readonly detachMs: readonly number[];
  readonly ownKb: number;
  readonly cpuPercent: number;
}

async function measure(place: string, number: number): Promise<Scale> {
  const startedMs = performance.now();
  const child: ChildProcess = fork(import.meta.filename, [place, String(number)], {
    execArgv: ['--max-semi-space-size=2'],
  });
  const gone = once(child, 'exit');
  const pid = child.pid ?? -1;
  try {
    await Promise.race([
      once(child, 'message'),
      gone.then(() => {
        throw new Error('the service ended');
      }),
    ]);
    const client = new ApiClient(apiSocketPath(join(place, 'run')));
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const all = await client.guests();
      if (all.filter(({ state }) => state === 'active').length === number) break;
      if (performance.now() > deadline) throw new Error('not all guests became active');
      await sleep(20);
    }
    const activeMs = performance.now() - startedMs;
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
      if (results.length !== names.length || results.some(({ ok }) => !ok))
        throw new Error('one was refused');
    };
    const request = { probes: ['signal'], parameters: [], self_test: false, force: false };
    for (let round = 0; round <= rounds; round += 1) {
      await timed(attachMs, (name) => client.attach(name, request));
      if (round < rounds) await timed(detachMs, (name) => client.detach(name, ['signal']));
    }
    // V8 gives back what start and pushes took; that is over then.
    await sleep(20_000);
    const before = cpuSeconds(pid);
    await sleep(windowMs);
    const cpuPercent = ((cpuSeconds(pid) - before) / windowMs) * 1e5;
    return { activeMs, attachMs, detachMs, ownKb: ownMemory(pid), cpuPercent };
  } finally {
    child.kill('SIGTERM');
    await gone;
  }
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

if (directory === undefined) await main();
else await serve(directory, Number(count));
