// SPDX-License-Identifier: Apache-2.0

/**
 * A guest whose region is overwritten while both sides use it: what is broken is given up with a reason, the service and its
 * other guests take no notice, the guest goes on, and a new epoch starts clean. (test/unit/relay-corruption.test.ts does it
 * 10,000 times on regions without a guest.)
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import type { EventBatch } from '../../host/guest/event-batch.ts';
import type { GuestSession } from '../../host/guest/session.ts';
import { type RegionLayout, regionLayout, splitRegion } from '../../host/relay/layout.ts';
import type { ManagedGuest } from '../../host/service/managed-guest.ts';
import { regionConstants, regionHeader, ringBlock } from '../../host/wire/region.ts';
import { type Corruption, corrupt, corruptions, Random } from '../harness/corruption.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { RegionWriter } from '../harness/region-writer.ts';
import { fixturePath, leftovers, Rig } from '../harness/rig.ts';
import { StormCensus } from '../harness/storm-census.ts';

const patienceMs = 60_000;
/** A guest under TCG beside us takes the processor too; a service that hangs takes it for ever. */
const longestStallMs = 2_000;

afterAll(() => expect(leftovers()).toEqual([]));

let rig: Rig;
let neighbour: Machine;
/** What the neighbour's storm delivered. */
const census = new StormCensus();

beforeAll(async () => {
  neighbour = await Machine.boot({ kernel: '6.12' });
  rig = await Rig.start({
    kernel: '6.1',
    neighbours: [neighbour],
    heartbeatMs: 200,
    sink: onlyOf(neighbour, census),
    keepRow: (batch) => {
      seen.set(batch.incarnation.guest, (seen.get(batch.incarnation.guest) ?? 0) + 1);
      return false;
    },
  });
  await rig.attach(['signal'], ['signals=all']);
  await startLoad();
  const other = await rig.service.guestFound(neighbour.name, patienceMs);
  await other.active(patienceMs);
  const parameters = ['start=1', 'records=100000000', 'rate=2000'];
  const [result] = await other.attach([fixturePath('6.12', 'storm')], parameters, {
    by: 'test',
    selfTest: false,
    force: false,
  });
  expect(result).toMatchObject({ ok: true });
});

afterAll(() => rig.close());

/** Events of each guest so far. */
const seen = new Map<string, number>();

describe('overwritten at random while it streams', () => {
  test('from within the event loop: every kind of nonsense is told, and a new epoch is clean', async () => {
    const random = new Random(20_261_121);
    const heart = heartbeat();
    const faults = new Set<string>();
    const reasons: string[] = [];
    for (let round = 0; round < 40; round += 1) {
      await streams();
      const session = sessionOf(rig.guest);
      await degrade(session, random, corruptions[round % corruptions.length]);
      reasons.push(rig.view.reason);
      for (const { fault } of session.statistics.perRing) faults.add(fault);
      await newEpoch();
    }
    expect(reasons.filter((reason) => reason.includes('quarantined')).length).toBeGreaterThan(10);
    expect(reasons.filter((reason) => reason.includes('overwrote the header')).length).toBeGreaterThan(0);
    faults.delete('none');
    expect(faults.size, [...faults].join(', ')).toBeGreaterThanOrEqual(4);
    expect(heart.stop()).toBeLessThan(longestStallMs);
    await unharmed();
  });

  test('by another process while it is read', async () => {
    const heart = heartbeat();
    for (let round = 0; round < 10; round += 1) {
      await streams();
      const session = sessionOf(rig.guest);
      const vandal = await startVandal(session, round + 1);
      await rig.until(() => session.statistics.quarantined > 0, 'a broken ring', patienceMs);
      await vandal.stop();
      await rig.until(() => rig.view.state === 'degraded', 'the verdict', patienceMs);
      expect(rig.view.reason).toMatch(/quarantined|the guest overwrote/);
      await newEpoch();
    }
    expect(heart.stop()).toBeLessThan(longestStallMs);
    await unharmed();
  });
});

test.each([
  ['unaligned', 4n],
  ['ahead of all that was written', 1n << 40n],
  ['the largest number', (1n << 64n) - 1n],
])('a tail that is %s: the guest loses records, counts them and goes on', async (_what, tail) => {
  await streams();
  const session = sessionOf(rig.guest);
  const region = writerOf(session);
  const lostBefore = Number((await session.status()).payload.lost);
  const word = Buffer.alloc(8);
  word.writeBigUInt64LE(tail);
  // The reader releases what it read: once is too little.
  const again = setInterval(() => {
    for (const { blockOffset } of region.layout.rings)
      region.poke(blockOffset + ringBlock.offsets.tail, word);
  }, 1);
  onTestFinished(() => clearInterval(again));
  await losing(session, lostBefore);
  clearInterval(again);
  region.close();
  await unharmed();
  await newEpoch();
});

test('one broken ring: the others of the guest go on', async () => {
  await streams();
  const session = sessionOf(rig.guest);
  const region = writerOf(session);
  // Nothing critical happens in the storm: its ring stays as it is overwritten.
  const critical = region.layout.rings.find((ring) => ring.critical);
  region.poke((critical?.blockOffset ?? 0) + ringBlock.offsets.head, Buffer.from('0123456789abcdef', 'hex'));
  region.close();
  await rig.until(() => rig.view.state === 'degraded', 'the verdict', patienceMs);
  expect(rig.view.reason).toBe('1 rings are quarantined: what the guest wrote there is broken');
  await streams();
  await newEpoch();
});

describe('header and directory', () => {
  /** What stands where, in the first page. */
  const places: readonly (readonly [string, number, number])[] = [
    ['magic', regionHeader.offsets.magic, 8],
    ['token', regionHeader.offsets.token, 16],
    ['last byte of the token', regionHeader.offsets.token + 15, 1],
    ['epoch', regionHeader.offsets.epoch, 8],
    ['boot', regionHeader.offsets.boot_id, 16],
    ['directory', regionConstants.DIRECTORY_OFFSET.value, 64],
    ['end of the directory', regionConstants.DIRECTORY_OFFSET.value + 32, 24],
  ];

  test.each(places)(
    '%s overwritten: told, and events go on; the next service goes on',
    async (_what, offset, bytes) => {
      await streams();
      const session = sessionOf(rig.guest);
      overwrite(session.region.path, offset, Buffer.alloc(bytes, 0xa5));
      if (offset !== regionHeader.offsets.boot_id) {
        await rig.until(() => rig.view.state === 'degraded', 'the verdict', patienceMs);
        expect(rig.view.reason).toContain('the guest overwrote the header of its region');
      }
      await streams();
      await restarted(offset >= regionHeader.offsets.epoch);
      await unharmed();
    },
  );
});

test('the neighbour lost nothing all the while', async () => {
  const other = rig.service.guest(neighbour.name);
  expect(other.state).toBe('active');
  expect(other.past.map(({ reason }) => reason)).toEqual([]);
  const session = sessionOf(other);
  const probe = session.probes.find('storm');
  if (probe === undefined) throw new Error('the storm is not loaded');
  const { error, lost } = await session.unload(probe);
  expect({ error, lost }).toEqual({ error: 0, lost: 0 });
  expect(census.blasts).toBeGreaterThan(10_000);
  expect(census).toMatchObject({ torn: 0, disordered: 0 });
  expect(session.statistics).toMatchObject({ lost: 0, gaps: 0, duplicates: 0, quarantined: 0, agrees: true });
  expect(session.undecodable).toBe(0);
  expectNoComplaints(neighbour.console());
});

function sessionOf({ session, machine }: ManagedGuest): GuestSession {
  if (session === undefined) throw new Error(`${machine.name} has no session`);
  return session;
}

/** Only the batches of one guest. */
function onlyOf({ name }: Machine, sink: StormCensus) {
  return {
    name: `census of ${name}`,
    deliver: (batch: EventBatch) => {
      if (batch.incarnation.guest === name) sink.deliver(batch);
    },
  };
}

async function startLoad(): Promise<void> {
  await rig.machine.start("sh -c 'while :; do actor storm 20000 >/dev/null; done'");
}

/** Events of the guest arrive now. */
async function streams(): Promise<void> {
  const { name } = rig.machine;
  const before = seen.get(name) ?? 0;
  await rig.until(() => (seen.get(name) ?? 0) >= before + 500, 'a stream of events', patienceMs);
}

function layoutOf({ region, hello }: GuestSession): RegionLayout {
  const cpuCount = hello.cpu_count;
  return regionLayout({ regionBytes: region.bytes, cpuCount, ...splitRegion(region.bytes, cpuCount) });
}

function writerOf(session: GuestSession): RegionWriter {
  return new RegionWriter(session.region.path, layoutOf(session), session.epoch, { resume: true });
}

/** Nonsense of one kind, and after a while of every kind, until the host says that something is wrong. */
async function degrade(session: GuestSession, random: Random, kind: Corruption | undefined): Promise<void> {
  let bursts = 0;
  const vandalism = setInterval(() => {
    const region = writerOf(session);
    bursts += 1;
    for (let poke = 0; poke < 8; poke += 1) corrupt(region, random, bursts < 400 ? kind : undefined);
    region.close();
  }, 1);
  try {
    await rig.until(() => rig.view.state === 'degraded', `the verdict on '${kind}'`, patienceMs);
  } finally {
    clearInterval(vandalism);
  }
}

/** Other process, other core: it writes in the middle of a read. */
async function startVandal(session: GuestSession, seed: number): Promise<{ stop(): Promise<void> }> {
  const script = fileURLToPath(new URL('../harness/region-vandal.ts', import.meta.url));
  const { region, hello } = session;
  const args = [region.path, region.bytes, session.epoch, seed, hello.cpu_count].map(String);
  const vandal = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const gone = once(vandal, 'exit');
  onTestFinished(() => void vandal.kill('SIGKILL'));
  await once(vandal.stdout, 'data');
  return {
    stop: async () => {
      expect(vandal.exitCode).toBeNull();
      vandal.kill('SIGKILL');
      await gone;
    },
  };
}

/** The relay stops and starts again in the same boot. The probe is wanted still, so the service brings it back. */
async function newEpoch(): Promise<void> {
  const before = sessionOf(rig.guest);
  const probe = before.probes.find('signal');
  if (probe === undefined) throw new Error('the probe is not loaded');
  expect((await before.unload(probe)).error).toBe(0);
  await before.deactivate();
  await rig.active();
  await cleanEpoch(before);
}

async function restarted(anew: boolean): Promise<void> {
  const before = sessionOf(rig.guest);
  await rig.restartService();
  await (await rig.service.guestFound(neighbour.name, patienceMs)).active(patienceMs);
  await cleanEpoch(before, anew);
}

async function cleanEpoch(before: GuestSession, anew = true): Promise<void> {
  // A stamp is restored and its rings resumed; what the guest lays out itself begins anew.
  if (anew) expect(sessionOf(rig.guest).epoch).not.toBe(before.epoch);
  await streams();
  expect(rig.view).toMatchObject({ state: 'active', relay: { quarantined: 0, undecodable: 0 } });
}

async function losing(session: GuestSession, before: number): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (Number((await session.status()).payload.lost) <= before)
    if (performance.now() > deadline) throw new Error('the guest counts no loss');
}

async function unharmed(): Promise<void> {
  expect(await rig.machine.check('echo I am fine')).toBe('I am fine');
  expectNoComplaints(rig.machine.console());
}

function overwrite(path: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

/** How long the event loop stood still at most. */
function heartbeat(): { stop(): number } {
  let last = performance.now();
  let longestMs = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    longestMs = Math.max(longestMs, now - last);
    last = now;
  }, 5);
  return {
    stop: () => {
      clearInterval(timer);
      return longestMs;
    },
  };
}
