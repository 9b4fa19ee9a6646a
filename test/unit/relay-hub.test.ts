// SPDX-License-Identifier: Apache-2.0

import { spawnSync } from 'node:child_process';
import { truncateSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { type HubOptions, RelayHub } from '../../host/relay/hub.ts';
import type { RingStatistics } from '../../host/relay/loss.ts';
import type { Relay, RelayBatch, RelayOptions } from '../../host/relay/relay.ts';
import { regionHeader, ringBlock } from '../../host/wire/region.ts';
import { threadMs } from '../harness/corruption-rounds.ts';
import { critical, epoch, other, RelayFixture, rowsOf } from '../harness/relay-fixture.ts';

function newHub(options: HubOptions = {}): RelayHub {
  const hub = new RelayHub(options);
  onTestFinished(() => hub.close());
  return hub;
}

interface Opened {
  readonly relay: Relay;
  readonly rows: string[];
}

function open(hub: RelayHub, fixture: RelayFixture, options: Partial<RelayOptions> = {}): Opened {
  const rows: string[] = [];
  const onBatch = (batch: RelayBatch): void => void rows.push(...rowsOf(batch));
  const relay = hub.open({ path: fixture.path, layout: fixture.layout, epoch, onBatch, ...options });
  onTestFinished(() => relay.close());
  return { relay, rows };
}

const asleep = (hub: RelayHub): Promise<void> =>
  vi.waitFor(() => expect(hub.awake).toBe(0), { interval: 1, timeout: 30_000 });

test('a guest that overwrites the tail again and again is told of once', async () => {
  const fixture = new RelayFixture();
  const told: RingStatistics[] = [];
  const { relay } = open(newHub(), fixture, { onOverwrite: (ring) => told.push(ring) });
  relay.start();
  const { blockOffset } = fixture.writer.ring(other).layout;
  for (let i = 1; i <= 50; i++) {
    fixture.writer.poke(blockOffset + ringBlock.offsets.tail, Buffer.alloc(8, i));
    relay.look();
    expect(fixture.writer.ring(other).tail).toBe(0);
  }
  expect(told).toMatchObject([{ cpu: 0, critical: false, overwritten: 1 }]);
  expect(relay.statistics()).toMatchObject({ overwritten: 50, quarantined: 0 });
});

describe('delivery', () => {
  test('what was there at the start is delivered before start() returns, and freed', () => {
    const fixture = new RelayFixture();
    fixture.writer.ring(other).write();
    const { relay, rows } = open(newHub(), fixture);
    expect(rows).toEqual([]);
    relay.start();
    expect(rows).toEqual(['other:0']);
    expect(fixture.writer.ring(other).tail).toBe(64);
  });

  test('what comes while the region is polled arrives without a doorbell', async () => {
    const fixture = new RelayFixture();
    const hub = newHub({ quietNs: 5e9 });
    const { relay, rows } = open(hub, fixture);
    relay.start();
    for (let i = 0; i < 200; i++) {
      fixture.writer.ring(i % 2).write();
      await vi.waitFor(() => expect(rows).toHaveLength(i + 1), { interval: 1, timeout: 30_000 });
    }
    expect(relay.statistics()).toMatchObject({
      delivered: 200,
      lost: 0,
      outstanding: 0,
      agrees: true,
      rings: 2,
    });
    expect(fixture.writer.rings.map((ring) => ring.needWakeup)).toEqual([false, false]);
  });

  test('a quiet region asks for a doorbell, sleeps, and wakes by it', async () => {
    const fixture = new RelayFixture();
    const hub = newHub();
    const { relay, rows } = open(hub, fixture);
    relay.start();
    expect(hub.awake).toBe(1);
    await asleep(hub);
    expect(fixture.writer.rings.map((ring) => ring.needWakeup)).toEqual([true, true]);

    const ring = fixture.writer.ring(other);
    ring.write();
    await delay(20);
    expect(rows).toEqual([]);
    ring.clearNeedWakeup();
    relay.wake();
    expect(rows).toEqual(['other:0']);
    expect(fixture.writer.rings.map((r) => r.needWakeup)).toEqual([false, false]);
    expect(hub.awake).toBe(1);
    await asleep(hub);
  });

  test('the thread does nothing at all while every region sleeps', async () => {
    const hub = newHub();
    open(hub, new RelayFixture()).relay.start();
    open(hub, new RelayFixture()).relay.start();
    await asleep(hub);
    const before = contextSwitches();
    await delay(300);
    expect(contextSwitches() - before).toBe(0);
  });

  test('a look at a quiet region wakes nothing; it finds what a lost doorbell told of, and asks for the next', async () => {
    const fixture = new RelayFixture();
    const hub = newHub();
    const { relay, rows } = open(hub, fixture);
    relay.start();
    await asleep(hub);
    relay.look();
    expect(hub.awake).toBe(0);

    const ring = fixture.writer.ring(other);
    ring.write();
    ring.clearNeedWakeup();
    relay.look();
    expect(rows).toEqual(['other:0']);
    await asleep(hub);
    expect(ring.needWakeup).toBe(true);
    relay.look();
    expect(hub.awake).toBe(0);
  });

  test('a look finds that records were read although their doorbell was lost', async () => {
    const fixture = new RelayFixture();
    const hub = newHub();
    const { relay } = open(hub, fixture);
    relay.start();
    await asleep(hub);
    const ring = fixture.writer.ring(other);
    ring.write();
    ring.clearNeedWakeup();
    relay.drain();
    relay.look();
    await asleep(hub);
    expect(ring.needWakeup).toBe(true);
  });

  test('after close() nothing is delivered, and what was counted stays known', async () => {
    const fixture = new RelayFixture();
    const hub = newHub();
    const { relay, rows } = open(hub, fixture);
    relay.start();
    fixture.writer.ring(other).write();
    relay.drain();
    relay.close();
    relay.close();
    fixture.writer.ring(other).write();
    relay.wake();
    relay.drain();
    relay.drain();
    relay.drainBeyond();
    await delay(10);
    expect(rows).toEqual(['other:0']);
    expect(hub.awake).toBe(0);
    expect(relay.statistics()).toMatchObject({ attempts: 1, delivered: 1, agrees: true });
  });

  test('a region whose file is already gone from the mapping is reported, once, and is not polled for ever', async () => {
    const fixture = new RelayFixture();
    const hub = newHub();
    const broken: RingStatistics[] = [];
    const { relay } = open(hub, fixture, { onQuarantine: (ring) => broken.push(ring) });
    relay.start();
    truncateSync(fixture.path, 0);
    await vi.waitFor(() => {
      relay.drain();
      expect(broken.map((ring) => ring.fault)).toEqual(['truncated', 'truncated']);
    }, 30_000);
    expect(relay.statistics().quarantined).toBe(2);
    await asleep(hub);
  });
});

describe('the guest’s header', () => {
  test('has to be what was agreed', () => {
    const fixture = new RelayFixture();
    expect(() => open(newHub(), fixture, { epoch: 1n })).toThrow(
      expect.objectContaining({ code: 'RELAY', message: expect.stringContaining('epoch is') }),
    );
    expect(() => open(newHub(), fixture, { token: new Uint8Array(16).fill(1) })).toThrow(/token is another/);
    expect(() => open(newHub(), fixture, { path: `${fixture.path}-missing` })).toThrow(
      /cannot be mapped: ENOENT/,
    );
  });

  test('is compared again whenever somebody asks', () => {
    const fixture = new RelayFixture();
    const { relay } = open(newHub(), fixture);
    expect(relay.verify()).toEqual([]);
    fixture.writer.poke(regionHeader.offsets.cpu_count, Uint8Array.of(9));
    expect(relay.verify()).toEqual(['cpu_count is 9, not 1']);
    expect(relay.verify()).toEqual(['cpu_count is 9, not 1']);
    fixture.writer.poke(regionHeader.offsets.cpu_count, Uint8Array.of(1));
    expect(relay.verify()).toEqual([]);
    // Sealed: a difference, and nothing wrong.
    fixture.writer.poke(regionHeader.offsets.state, Uint8Array.of(2));
    expect(relay.verify()).toEqual([]);
    fixture.writer.poke(regionHeader.offsets.state, Uint8Array.of(7));
    expect(relay.verify()).toEqual(['state is 7']);
  });

  test('the heartbeat in it is read as it is, and is no difference', () => {
    const fixture = new RelayFixture();
    const { relay } = open(newHub(), fixture);
    expect(relay.heartbeatNs()).toBe(0);
    const word = Buffer.alloc(8);
    for (const ns of [1n, 0xffff_ffffn, 0x1_2345_6789_abcdn, 2n ** 53n, 2n ** 64n - 1n]) {
      word.writeBigUInt64LE(ns);
      fixture.writer.poke(regionHeader.offsets.heartbeat_ns, word);
      expect(relay.heartbeatNs()).toBe(Number(ns));
      expect(relay.verify()).toEqual([]);
    }
    relay.close();
    expect(relay.heartbeatNs()).toBe(2 ** 64);
    expect(relay.verify()).toEqual([]);
  });
});

describe('handlers', () => {
  test('one that throws is reported and harms nobody', () => {
    const fixture = new RelayFixture();
    const errors: unknown[] = [];
    const failing = open(newHub(), fixture, {
      onBatch: () => {
        throw new Error('no');
      },
      onHandlerError: (error) => errors.push(error),
    });
    fixture.writer.ring(other).write();
    failing.relay.start();
    expect(errors).toEqual([new Error('no')]);
    expect(failing.relay.statistics()).toMatchObject({ delivered: 1, handlerErrors: 1 });
    expect(fixture.writer.ring(other).tail).toBe(64);
  });

  test('one may close its relay, drain another or its own', () => {
    const [one, two] = [new RelayFixture(), new RelayFixture()];
    const hub = newHub();
    one.writer.ring(other).write();
    two.writer.ring(other).write();
    const second = open(hub, two);
    const seen: string[] = [];
    const { relay } = open(hub, one, {
      onBatch: (batch) => {
        const before = rowsOf(batch);
        one.writer.ring(other).write();
        if (seen.length === 0) {
          seen.push(...before);
          second.relay.drain();
          relay.drain();
        } else {
          seen.push(...before);
          relay.close();
        }
        // The outer batch is still what it was.
        expect(rowsOf(batch)).toEqual(before);
      },
    });
    relay.start();
    expect(seen).toEqual(['other:0', 'other:1']);
    expect(second.rows).toEqual(['other:0']);
    expect(relay.statistics().delivered).toBe(2);
  });

  test('a slow one does not hold the event loop longer than a slice and a turn', async () => {
    const fixture = new RelayFixture();
    const hub = newHub({ sliceMs: 2 });
    const handled: number[] = [];
    const { relay } = open(hub, fixture, {
      onBatch: (batch) => {
        const until = performance.now() + 0.05 * batch.count;
        while (performance.now() < until);
        handled.push(batch.count);
      },
    });
    for (let i = 0; i < 64; i++) fixture.writer.ring(other).write();
    relay.start();
    const longest = await longestStall(async () => {
      for (let round = 0; round < 50; round++) {
        const ring = fixture.writer.ring(other);
        for (let i = 0; i < 60; i++) ring.write();
        // As a guest does, should the region have fallen asleep meanwhile.
        if (ring.needWakeup) relay.wake();
        await vi.waitFor(() => expect(relay.statistics().outstanding).toBe(0), {
          interval: 1,
          timeout: 30_000,
        });
      }
    });
    expect(Math.max(...handled.slice(10))).toBeLessThanOrEqual(64);
    expect(longest).toBeLessThan(500);
  });

  test('a guest that floods does not keep another from its turn', async () => {
    const [flooding, quiet] = [new RelayFixture(), new RelayFixture()];
    const hub = newHub({ sliceMs: 1 });
    let flood = 0;
    const noisy = open(hub, flooding, {
      onBatch: (batch) => {
        flood += batch.count;
        const until = performance.now() + 2;
        while (performance.now() < until);
        // As fast as it is read.
        if (flood < 20_000) while (flooding.writer.ring(other).write());
      },
    });
    while (flooding.writer.ring(other).write());
    noisy.relay.start();
    let floodWhenQuietCame = 0;
    const { relay } = open(hub, quiet, {
      onBatch: () => {
        floodWhenQuietCame = flood;
      },
    });
    relay.start();
    const before = flood;
    quiet.writer.ring(critical).write();
    await vi.waitFor(() => expect(floodWhenQuietCame).toBeGreaterThan(0), { interval: 1, timeout: 30_000 });
    expect(floodWhenQuietCame - before).toBeLessThan(20_000 / 4);
    noisy.relay.close();
  });
});

describe('the end of the process', () => {
  test('regions and watchers that nobody closed are collected while they are polled, and process.exit() is no crash', () => {
    const fixture = new RelayFixture();
    const script = `
      const { loadRelayAddon } = await import(${JSON.stringify(new URL('../../host/relay/native.ts', import.meta.url).href)});
      const { Region, Watcher, Batch } = loadRelayAddon();
      const options = { bytes: ${fixture.layout.regionBytes}, epoch: ${epoch}n, rings: ${JSON.stringify(fixture.layout.rings)} };
      const open = () => new Region(${JSON.stringify(fixture.path)}, options);
      const mapped = () => process.getBuiltinModule('node:fs').readFileSync('/proc/self/maps', 'utf8').split('/region').length - 1;
      for (let round = 0; round < 20; round++) {
        const watcher = new Watcher(() => {}, { quietNs: 1e10 });
        for (let i = 0; i < 20; i++) watcher.add(open(), i);
        for (let i = 0; i < 20; i++) new Batch(64, 65536);
        await new Promise((resolve) => setTimeout(resolve, 2));
        gc();
        await new Promise((resolve) => setImmediate(resolve));
      }
      for (let i = 0; i < 100 && mapped() > 0; i++) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      const left = mapped();
      const watcher = new Watcher(() => {}, { quietNs: 1e10 });
      globalThis.kept = open();
      watcher.add(kept, 1);
      await new Promise((resolve) => setTimeout(resolve, 5));
      console.log(left);
      process.exit(7);`;
    const { status, signal, stdout } = spawnSync(process.execPath, [
      '--expose-gc',
      '--input-type=module',
      '-e',
      script,
    ]);
    expect({ status, signal, stdout: String(stdout) }).toEqual({ status: 7, signal: null, stdout: '0\n' });
  });

  test('what is still polled does not keep a process alive', () => {
    const fixture = new RelayFixture();
    const script = `
      const { loadRelayAddon } = await import(${JSON.stringify(new URL('../../host/relay/native.ts', import.meta.url).href)});
      const { Region, Watcher } = loadRelayAddon();
      const options = { bytes: ${fixture.layout.regionBytes}, epoch: ${epoch}n, rings: ${JSON.stringify(fixture.layout.rings)} };
      globalThis.watcher = new Watcher(() => {}, { quietNs: 1e10 });
      watcher.add(globalThis.region = new Region(${JSON.stringify(fixture.path)}, options), 1);`;
    const { status, signal } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      timeout: 10_000,
    });
    expect({ status, signal }).toEqual({ status: 0, signal: null });
  });

  test('a worker thread that ends with everything open and polled harms nobody', async () => {
    const fixture = new RelayFixture();
    const source = `
      const { workerData } = require('node:worker_threads');
      import(workerData.hub).then(({ RelayHub }) => {
        const hub = new RelayHub({ quietNs: 1e10 });
        const relay = hub.open({ path: workerData.path, layout: workerData.layout, epoch: workerData.epoch, onBatch() {} });
        relay.start();
      });`;
    const workerData = {
      hub: new URL('../../host/relay/hub.ts', import.meta.url).href,
      path: fixture.path,
      layout: fixture.layout,
      epoch,
    };
    for (let round = 0; round < 10; round++) {
      const code = await new Promise((resolve, reject) => {
        new Worker(source, { eval: true, workerData, execArgv: [] }).on('exit', resolve).on('error', reject);
      });
      expect(code).toBe(0);
    }
  });
});

/** Of the threads of the poller in this process. */
function contextSwitches(): number {
  const { readdirSync, readFileSync } = process.getBuiltinModule('node:fs');
  let sum = 0;
  for (const thread of readdirSync('/proc/self/task')) {
    if (readFileSync(`/proc/self/task/${thread}/comm`, 'utf8').trim() !== 'vesper-relay') continue;
    const status = readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
    for (const [, count] of status.matchAll(/ctxt_switches:\s+(\d+)/g)) sum += Number(count);
  }
  return sum;
}

/** Most processor time between two turns of the event loop during `work`, in milliseconds. */
async function longestStall(work: () => Promise<void>): Promise<number> {
  let longest = 0;
  let last = threadMs();
  let running = true;
  const tick = (): void => {
    const now = threadMs();
    longest = Math.max(longest, now - last);
    last = now;
    if (running) setImmediate(tick);
  };
  tick();
  await work();
  running = false;
  return longest;
}
