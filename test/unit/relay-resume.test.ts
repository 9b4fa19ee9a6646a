// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { lossReport } from '../../host/relay/loss.ts';
import { ringBlock } from '../../host/wire/region.ts';
import { drained, epoch, newBatch, other, RelayFixture, statisticsOf } from '../harness/relay-fixture.ts';

describe('a reader that takes over from another', () => {
  test('goes on where the last one released', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    for (let i = 0; i < 5; i++) ring.write();
    const first = fixture.openRegion();
    expect(drained(first, newBatch(4))).toHaveLength(4);
    first.release();
    expect(drained(first)).toEqual(['other:4']);
    first.close();
    expect(drained(fixture.openRegion())).toEqual(['other:4']);
  });

  test('counts on where the last one stopped, with losses on both sides', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    for (let i = 0; i < 70; i++) ring.write();
    const first = fixture.openRegion();
    drained(first);
    first.release();
    for (let i = 0; i < 70; i++) ring.write();
    first.close();

    const second = fixture.openRegion();
    expect(drained(second)[0]).toBe('other:70');
    second.release();
    ring.write();
    drained(second);
    const [, statistics] = statisticsOf(second, fixture.layout);
    expect(statistics).toMatchObject({
      receivedBefore: 64,
      received: 65,
      nextSequence: 141,
      gaps: 12,
      guestLost: 12,
      guestAttempts: 141,
    });
    expect(lossReport([statistics as NonNullable<typeof statistics>]).agrees).toBe(true);
  });

  test('where the journal of the last one is damaged, it counts from the first record it sees', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    for (let i = 0; i < 5; i++) ring.write();
    const first = fixture.openRegion();
    drained(first);
    first.release();
    first.close();
    fixture.writer.poke(
      ring.layout.blockOffset + ringBlock.offsets.consumer_reserved,
      new Uint8Array(48).fill(0xff),
    );
    ring.write();
    const second = fixture.openRegion();
    expect(drained(second)).toEqual(['other:5']);
    expect(statisticsOf(second, fixture.layout)[other]).toMatchObject({
      receivedBefore: 0,
      received: 1,
      gaps: 0,
      nextSequence: 6,
    });
  });

  test('a journal made up by the guest changes numbers only', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    ring.write();
    const journal = Buffer.alloc(48);
    journal.writeBigUInt64LE(0n, 0);
    journal.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, 8);
    journal.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, 16);
    fixture.writer.poke(ring.layout.blockOffset + ringBlock.offsets.consumer_reserved, journal);
    const region = fixture.openRegion();
    expect(drained(region)).toEqual(['other:0']);
    expect(statisticsOf(region, fixture.layout)[other]).toMatchObject({ fault: 'none', received: 1 });
  });
});

describe('readers in processes of their own', () => {
  test('one that is killed between taking and releasing loses nothing: the next one is given the same records', async () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    for (let i = 0; i < 3; i++) ring.write();
    const held = reader(fixture, 'hold');
    await vi.waitFor(() => expect(held.lines).toHaveLength(3), { timeout: 10_000 });
    await kill(held.process);
    expect(ring.tail).toBe(0);

    ring.write();
    const next = reader(fixture, 'deliver');
    await vi.waitFor(() => expect(next.lines).toEqual(['1:0', '1:1', '1:2', '1:3']), { timeout: 10_000 });
    await vi.waitFor(() => expect(ring.tail).toBe(4 * 64), { timeout: 10_000 });
  });

  test('killed again and again in a stream: every record arrives or was counted as lost, in order, repeated ones recognisable', async () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    const all: number[] = [];
    let unique = 0;
    for (let round = 0; round < 5; round++) {
      const current = reader(fixture, 'deliver');
      const target = unique + 300;
      await vi.waitFor(
        () => {
          for (let i = 0; i < 50; i++) ring.write();
          unique = new Set([...all, ...current.sequences()]).size;
          expect(unique).toBeGreaterThan(target);
        },
        { timeout: 20_000, interval: 1 },
      );
      await kill(current.process);
      all.push(...current.sequences());
      const numbers = current.sequences();
      expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
    }
    const last = fixture.openRegion();
    for (;;) {
      const rows = drained(last);
      if (rows.length === 0) break;
      all.push(...rows.map((row) => Number(row.split(':')[1])));
      last.release();
    }
    expect(new Set(all).size + ring.lost).toBe(ring.attempts);
    const [, statistics] = statisticsOf(last, fixture.layout);
    expect(lossReport([statistics as NonNullable<typeof statistics>])).toMatchObject({
      delivered: new Set(all).size,
      outstanding: 0,
      agrees: true,
    });
  }, 60_000);
});

interface Reader {
  readonly process: ChildProcess;
  readonly lines: readonly string[];
  sequences(): number[];
}

function reader(fixture: RelayFixture, mode: 'deliver' | 'hold'): Reader {
  const { regionBytes, cpuCount, criticalRingBytes, ringBytes } = fixture.layout;
  const script = fileURLToPath(new URL('../harness/relay-reader.ts', import.meta.url));
  const args = [fixture.path, regionBytes, cpuCount, criticalRingBytes, ringBytes, epoch, mode].map(String);
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const lines: string[] = [];
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    lines.push(...parts);
  });
  return { process: child, lines, sequences: () => lines.map((line) => Number(line.split(':')[1])) };
}

async function kill(child: ChildProcess): Promise<void> {
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}
