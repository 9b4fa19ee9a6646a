// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import { ClockAlignment } from '../../host/guest/clock.ts';
import { EventBatch } from '../../host/guest/event-batch.ts';
import { ProbeTable } from '../../host/guest/probe-table.ts';
import { RelayBatch } from '../../host/relay/batch.ts';
import { RecentEvents } from '../../host/service/recent-events.ts';

const maximumBytes = 64 << 10;

/** Rows numbered from `first` on; each payload is its number, as often as it fits, in records with gaps between them. */
function batchOf(first: number, rows: number, payloadBytes: number): EventBatch {
  const stride = payloadBytes + 32;
  const arena = new Uint8Array(rows * stride);
  const words = new Uint32Array(arena.buffer);
  const numbers = Array.from({ length: rows }, (_, row) => first + row);
  for (let row = 0; row < rows; row += 1)
    words.fill(first + row, (row * stride + 32) / 4, ((row + 1) * stride) / 4);
  const columns = new RelayBatch(
    {
      slot: new Uint16Array(rows).fill(3),
      event: new Uint16Array(rows).fill(1),
      cpu: new Uint16Array(rows),
      ring: new Uint16Array(rows).fill(1),
      timeNs: Float64Array.from(numbers),
      sequence: Float64Array.from(numbers),
      payloadOffset: Uint32Array.from(numbers, (_, row) => row * stride + 32),
      payloadBytes: new Uint32Array(rows).fill(payloadBytes),
      arena,
    },
    rows,
  );
  const incarnation = { guest: 'one', uuid: 'u', bootId: 'b' };
  return new EventBatch(incarnation, new ProbeTable(), new ClockAlignment(), columns);
}

/** The numbers of all rows kept, oldest first; throws where a row is not what was delivered. */
function keptRows(recent: RecentEvents): readonly number[] {
  const rows: number[] = [];
  for (let number = recent.oldest; number < recent.next; number += 1) {
    const { columns, length } = recent.at(number) as EventBatch;
    for (let row = 0; row < length; row += 1) {
      const sequence = columns.sequence[row] as number;
      const payload = columns.payload(row);
      const words = new Uint32Array(payload.slice().buffer);
      if (words.some((word) => word !== sequence)) throw new Error(`row ${sequence} has ${words}`);
      expect(columns.timeNs[row]).toBe(sequence);
      rows.push(sequence);
    }
  }
  return rows;
}

describe('the newest events', () => {
  test('are kept whole while others are forgotten, whatever the size of the batches', () => {
    const recent = new RecentEvents(maximumBytes);
    let next = 0;
    for (let round = 0; round < 500; round += 1) {
      const rows = 1 + ((round * 7) % 40);
      recent.deliver(batchOf(next, rows, 8 + 8 * (round % 5)));
      next += rows;
      const kept = keptRows(recent);
      expect(kept).toEqual(Array.from({ length: kept.length }, (_, row) => next - kept.length + row));
      expect(recent.forgotten).toBe(next - kept.length);
    }
    expect(recent.forgotten).toBeGreaterThan(5_000);
  });

  test('a forgotten batch is told as such', () => {
    const recent = new RecentEvents(maximumBytes);
    for (let round = 0; round < 100; round += 1) recent.deliver(batchOf(round * 100, 100, 32));
    expect(recent.oldest).toBeGreaterThan(0);
    expect(recent.at(recent.oldest - 1)).toBeUndefined();
    expect(recent.at(recent.oldest)).toBeDefined();
    expect(recent.at(recent.next)).toBeUndefined();
  });

  test('one batch that is larger than all that is kept is kept alone', () => {
    const recent = new RecentEvents(maximumBytes);
    recent.deliver(batchOf(0, 10, 32));
    recent.deliver(batchOf(10, 2_000, 64));
    expect(keptRows(recent)).toHaveLength(2_000);
    recent.deliver(batchOf(2_010, 1, 8));
    expect(keptRows(recent)).toEqual([2_010]);
  });

  test('single events, one a batch, take no more memory than allowed', () => {
    const recent = new RecentEvents(maximumBytes);
    for (let number = 0; number < 10_000; number += 1) recent.deliver(batchOf(number, 1, 8));
    // Their objects count too.
    expect(recent.next - recent.oldest).toBeLessThan(maximumBytes / 1024);
    expect(recent.next - recent.oldest).toBeGreaterThan(10);
  });

  test('in a storm no memory is asked for', () => {
    const recent = new RecentEvents(maximumBytes);
    const buffers = new Set<unknown>();
    for (let round = 0; round < 1_000; round += 1) {
      recent.deliver(batchOf(round * 64, 64, 32));
      buffers.add(recent.at(recent.next - 1)?.columns.timeNs.buffer);
    }
    expect(buffers.size).toBeLessThan(20);
  });
});
