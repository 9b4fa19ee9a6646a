// SPDX-License-Identifier: Apache-2.0

/**
 * A probe is attached and unloaded again and again while the guest does nothing but fire it: no record is torn, none is
 * unaccounted for, and nothing of the probe stays behind, in the guest or in the service.
 */

import { readdirSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, describe, expect, test } from 'vitest';
import type { Machine } from '../../host/demo/machine.ts';
import type { EventBatch } from '../../host/guest/event-batch.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { leftovers, Rig } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

/** Before the first comparison: caches fill, the compiler of Node has seen all. */
const warmUpRounds = 20;
/** Records that do not fit into the service's memory of recent events. */
const enoughForHistory = 100_000;

describe.each([
  { kernel: '6.1', rounds: 200, append: '' },
  { kernel: '6.12', rounds: 200, append: '' },
  { kernel: '6.1', rounds: 30, append: 'slub_debug=FZPU page_poison=1' },
  { kernel: '6.12', rounds: 30, append: 'slub_debug=FZPU page_poison=1' },
] as const)('kernel $kernel $append', ({ kernel, rounds, append }) => {
  test(`attach, detach and unload under full load, ${rounds} times`, async () => {
    const census = new SignalCensus();
    await using rig = await Rig.start({ kernel, append, keepRow: (batch, row) => census.judge(batch, row) });
    const { machine } = rig;
    await machine.check(
      'mount -t debugfs none /sys/kernel/debug && mount -t tracefs none /sys/kernel/tracing',
    );
    // Otherwise the kernel was built without, and what this is to find stays unfound.
    const debugged = await machine.check(
      'cat /sys/kernel/slab/kmalloc-64/red_zone /sys/kernel/slab/kmalloc-64/poison',
    );
    expect(debugged).toBe(append === '' ? '0\n0' : '1\n1');

    const bare = await traces(machine);
    await roundsUnderLoad(rig, census, 1, enoughForHistory);
    // The service's memory of recent events is full: what grows from now on is a leak.
    expect(rig.service.recent.forgotten).toBeGreaterThan(0);
    await roundsUnderLoad(rig, census, warmUpRounds);
    const before = { guest: await guestMemory(machine), host: hostState() };
    await roundsUnderLoad(rig, census, rounds);
    const after = { guest: await guestMemory(machine), host: hostState() };

    expect(await traces(machine)).toEqual(bare);
    for (const [what, limitKib] of Object.entries(guestLimitsKib)) {
      const grownKib = (after.guest[what] as number) - (before.guest[what] as number);
      expect(grownKib, `${what} of the guest grew by ${grownKib} KiB`).toBeLessThan(limitKib);
    }
    expect(after.host.files).toBe(before.host.files);
    const grownBytes = after.host.externalBytes - before.host.externalBytes;
    expect(grownBytes, 'memory of the host outside the heap').toBeLessThan(1 << 20);

    const { session } = rig.guest;
    if (session === undefined) throw new Error('the session has ended');
    session.drain();
    const { delivered, lost, attempts, duplicates, handlerErrors } = session.statistics;
    expect({ duplicates, handlerErrors }).toEqual({ duplicates: 0, handlerErrors: 0 });
    expect(delivered + lost).toBe(attempts);
    expect(delivered).toBe(census.rows);
    expect(rig.view).toMatchObject({ state: 'active', probes: [] });
    expect(rig.view.relay).toMatchObject({ undecodable: 0, quarantined: 0 });
    expectNoComplaints(machine.console());
  });
});

/** One leaked page a round would be 800 KiB, one leaked object of 1 KiB 200. */
const guestLimitsKib: Readonly<Record<string, number>> = { VmallocUsed: 128, Percpu: 64, SUnreclaim: 160 };

async function roundsUnderLoad(rig: Rig, census: SignalCensus, rounds: number, records = 500): Promise<void> {
  const load = await storm(rig.machine);
  for (let round = 0; round < rounds; round += 1) {
    const rowsBefore = census.rows;
    await rig.attach(['signal'], ['signals=all']);
    await census.rowsReached(rowsBefore + records);
    const { ok, message } = await rig.guest.detach('signal', 'test');
    expect(ok, message).toBe(true);
    const [, written, lost] = /wrote (\d+) records and lost (\d+)$/.exec(message) ?? [];
    expect(Number(written), message).toBe(census.rows - rowsBefore);
    expect(Number(lost)).toBeGreaterThanOrEqual(0);
    expect(census.torn).toEqual([]);
  }
  await load.stop();
}

/** Signals without pause: as soon as one process has sent its share, the next begins. */
async function storm(machine: Machine): Promise<{ stop(): Promise<void> }> {
  await machine.check('rm -f /tmp/enough /tmp/done');
  const loop = 'while [ ! -e /tmp/enough ]; do actor storm 20000 >/dev/null; done; touch /tmp/done';
  await machine.start(`sh -c '${loop}'`);
  return {
    stop: async () => {
      await machine.check('touch /tmp/enough; while [ ! -e /tmp/done ]; do usleep 20000; done');
    },
  };
}

/** What an attached probe shows of itself in a guest, and what a forgotten one would. */
async function traces(machine: Machine): Promise<Readonly<Record<string, string>>> {
  return {
    // A row ends in the address where the module lies.
    modules: await machine.check("awk '{ print $1, $3, $4 }' /proc/modules | sort"),
    // Workers come and go as the kernel thinks fit.
    threads: await machine.check("ps -o comm,args | awk '/\\[/ && !/kworker/ { print $1 }' | sort"),
    kprobes: await machine.check('cat /sys/kernel/debug/kprobes/list'),
    functions: await machine.check('cat /sys/kernel/tracing/enabled_functions'),
  };
}

/** KiB of the kernel's own memory, without what it would give back if asked. */
async function guestMemory(machine: Machine): Promise<Readonly<Record<string, number>>> {
  await machine.check('sync; echo 3 >/proc/sys/vm/drop_caches');
  const meminfo = await machine.check('cat /proc/meminfo');
  return Object.fromEntries(
    Object.keys(guestLimitsKib).map((name) => [
      name,
      Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(meminfo)?.[1]),
    ]),
  );
}

setFlagsFromString('--expose_gc');
const collectGarbage = runInNewContext('gc') as () => void;

function hostState(): { readonly files: number; readonly externalBytes: number } {
  for (let i = 0; i < 5; i += 1) collectGarbage();
  return { files: readdirSync('/proc/self/fd').length, externalBytes: process.memoryUsage().external };
}

/** Counts the records of the signal probe, and judges each: a storm's process signals itself, and it ends. */
class SignalCensus {
  rows = 0;
  /** The first few that are not what the guest does. */
  readonly torn: unknown[] = [];
  #waiting: { readonly rows: number; readonly reached: () => void } | undefined;

  judge(batch: EventBatch, row: number): false {
    this.rows += 1;
    if (!likely(batch, row) && this.torn.length < 5) this.torn.push(batch.toEvent(row));
    if (this.#waiting !== undefined && this.rows >= this.#waiting.rows) {
      this.#waiting.reached();
      this.#waiting = undefined;
    }
    return false;
  }

  /** Resolves when so many rows were seen. */
  rowsReached(rows: number): Promise<void> {
    return new Promise((reached, fail) => {
      const timer = setTimeout(() => fail(new Error(`${this.rows} records came, not ${rows}`)), 20_000);
      this.#waiting = {
        rows,
        reached: () => {
          clearTimeout(timer);
          reached();
        },
      };
    });
  }
}

function likely(batch: EventBatch, row: number): boolean {
  const decoder = batch.decoder(row);
  if (decoder === undefined || decoder.declaration.name !== 'delivered') return false;
  const show = (name: string) => decoder.field(name)?.show(batch.columns, row);
  switch (show('signal')) {
    case 'SIGUSR2':
      return (
        show('sender_comm') === 'actor' &&
        show('target_comm') === 'actor' &&
        show('sender_pid') === show('target_pid') &&
        show('sender_tgid') === show('target_tgid') &&
        show('result') === 'ignored' &&
        show('code') === 'SI_USER' &&
        show('kernel') === 'no'
      );
    // A child of the storm, of a shell, or of PID 1 ends.
    case 'SIGCHLD':
      return show('kernel') === 'yes' && show('code') === 'CLD_EXITED';
    default:
      return false;
  }
}
