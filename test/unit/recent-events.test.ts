// SPDX-License-Identifier: Apache-2.0

import { expect, test } from 'vitest';
import { ClockAlignment } from '../../host/guest/clock.ts';
import { EventBatch } from '../../host/guest/event-batch.ts';
import { ProbeTable } from '../../host/guest/probe-table.ts';
import { RelayBatch } from '../../host/relay/batch.ts';
import { lastEvents } from '../../host/service/last-events.ts';
import { RecentEvents } from '../../host/service/recent-events.ts';

const maximumBytes = 64 << 10;

/** Rows numbered from `first` on; each payload is its number, as often as it fits. */
function batchOf(first: number, rows: number, payloadBytes = 32, uuid = 'u', bootId = 'b'): EventBatch {
  const stride = payloadBytes + 32;
  const words = new Uint32Array((rows * stride) / 4);
  const each = <T>(of: (row: number) => T) => Array.from({ length: rows }, (_, row) => of(row));
  for (let row = 0; row < rows; row += 1)
    words.fill(first + row, (row * stride + 32) / 4, ((row + 1) * stride) / 4);
  const columns = new RelayBatch(
    {
      slot: new Uint16Array(rows).fill(3),
      event: new Uint16Array(rows).fill(1),
      cpu: new Uint16Array(rows),
      ring: new Uint16Array(rows).fill(1),
      timeNs: Float64Array.from(each((row) => first + row)),
      sequence: Float64Array.from(each((row) => first + row)),
      payloadOffset: Uint32Array.from(each((row) => row * stride + 32)),
      payloadBytes: new Uint32Array(rows).fill(payloadBytes),
      arena: new Uint8Array(words.buffer),
    },
    rows,
  );
  const incarnation = { guest: 'one', uuid, bootId };
  return new EventBatch(incarnation, new ProbeTable(), new ClockAlignment()).bind(columns);
}

/** The numbers of all rows kept, oldest first; throws where a row is not what was delivered. */
function keptRows(recent: RecentEvents): readonly number[] {
  const rows: number[] = [];
  for (let number = recent.oldest; number < recent.next; number += 1) {
    const batch = recent.at(number);
    if (batch === undefined) throw new Error(`batch ${number} is missing`);
    for (let row = 0; row < batch.length; row += 1) {
      const sequence = batch.columns.sequence[row] as number;
      const words = new Uint32Array(batch.columns.payload(row).slice().buffer);
      if (words.some((word) => word !== sequence)) throw new Error(`row ${sequence} has ${words}`);
      rows.push(sequence);
    }
  }
  return rows;
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);

test('the newest events are kept whole, whatever the size of their batches, and the others counted', () => {
  const recent = new RecentEvents(maximumBytes);
  let next = 0;
  for (let round = 0; round < 500; round += 1) {
    const rows = 1 + ((round * 7) % 40);
    recent.deliver(batchOf(next, rows, 8 + 8 * (round % 5)));
    next += rows;
    expect(keptRows(recent)).toEqual(range(recent.forgotten, next));
  }
  expect(recent.forgotten).toBeGreaterThan(5_000);
});

test('a forgotten batch is told as such', () => {
  const recent = new RecentEvents(maximumBytes);
  for (let round = 0; round < 100; round += 1) recent.deliver(batchOf(round * 100, 100));
  expect(recent.oldest).toBeGreaterThan(0);
  expect(recent.at(recent.oldest - 1)).toBeUndefined();
  expect(recent.at(recent.oldest)).toBeDefined();
  expect(recent.at(recent.next)).toBeUndefined();
});

test('a batch that is larger than all that may be kept is forgotten at once', () => {
  const recent = new RecentEvents(maximumBytes);
  recent.deliver(batchOf(0, 10));
  recent.deliver(batchOf(10, 2_000));
  expect(keptRows(recent)).toEqual([]);
  expect(recent.forgotten).toBe(2_010);
  recent.deliver(batchOf(2_010, 1));
  expect(keptRows(recent)).toEqual([2_010]);
});

test('of single events no more batches are kept than their objects may take memory', () => {
  const recent = new RecentEvents(maximumBytes);
  for (let number = 0; number < 2_000; number += 1) recent.deliver(batchOf(number, 1, 8));
  expect(recent.next - recent.oldest).toBe(maximumBytes / 256);
  expect(keptRows(recent)).toEqual(range(2_000 - maximumBytes / 256, 2_000));
});

test('a storm takes no memory for its rows', () => {
  const recent = new RecentEvents(maximumBytes);
  const buffers = new Set<unknown>();
  for (let round = 0; round < 1_000; round += 1) {
    recent.deliver(batchOf(round * 64, 64));
    buffers.add(recent.at(recent.next - 1)?.columns.timeNs.buffer);
  }
  expect(buffers.size).toBe(1);
});

test('the last ones of one boot of a guest, in their order', () => {
  const recent = new RecentEvents(maximumBytes);
  recent.deliver(batchOf(0, 5));
  recent.deliver(batchOf(100, 3, 32, 'another'));
  recent.deliver(batchOf(200, 3, 32, 'u', 'next boot'));
  recent.deliver(batchOf(5, 3));
  const numbers = (most: number) => lastEvents(recent, 'u', 'b', most).map(({ sequence }) => sequence);
  expect(numbers(6)).toEqual([2, 3, 4, 5, 6, 7]);
  expect(numbers(100)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(lastEvents(recent, 'nobody', 'b', 6)).toEqual([]);
});
