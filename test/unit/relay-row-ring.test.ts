// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { emptyBatch, RelayBatch } from '../../host/relay/batch.ts';
import { type KeptRows, RowRing } from '../../host/relay/row-ring.ts';

const spare = 3;
const stride = 96;

/** Rows of one batch, numbered from `first` on, their payloads in records with gaps between them. */
function batchOf(payloads: readonly Uint8Array[], first: number): RelayBatch {
  const arena = new Uint8Array(4096);
  const rows = payloads.length + spare;
  const numbers = (factor: number) => Array.from({ length: rows }, (_, row) => (first + row) * factor);
  payloads.forEach((payload, row) => {
    arena.set(payload, row * stride + 64);
  });
  return new RelayBatch(
    {
      slot: Uint16Array.from(numbers(1)),
      event: Uint16Array.from(numbers(3)),
      cpu: Uint16Array.from(numbers(5)),
      ring: Uint16Array.from(numbers(7)),
      timeNs: Float64Array.from(numbers(1e9)),
      sequence: Float64Array.from(numbers(2)),
      payloadOffset: Uint32Array.from({ length: rows }, (_, row) => row * stride + 64),
      payloadBytes: Uint32Array.from({ length: rows }, (_, row) => payloads[row]?.length ?? 0),
      arena,
    },
    payloads.length,
  );
}

const batches = fc.array(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 20 }), { maxLength: 30 });

test('keeps the newest rows when their batch is used again, and says which were overwritten', () => {
  fc.assert(
    fc.property(batches, (all) => {
      const bytes = 4096;
      const ring = new RowRing(bytes);
      const kept: { rows: KeptRows; payloads: readonly Uint8Array[]; first: number }[] = [];
      let first = 0;
      for (const payloads of all) {
        const batch = batchOf(payloads, first);
        kept.push({ rows: ring.append(batch), payloads, first });
        first += payloads.length;
        batch.arena.fill(0xff);
        batch.timeNs.fill(-1);
        batch.payloadOffset.fill(0);
      }
      const held = kept.filter(({ rows }) => ring.holds(rows));
      // What is kept are the last ones, and they fill the ring as far as another would not have fitted.
      expect(held).toEqual(kept.slice(kept.length - held.length));
      const most = 20 * 32 + 20 * stride;
      if (held.length < kept.length)
        expect(held.reduce((sum, { rows }) => sum + rows.count * 32 + rows.arenaBytes, 0)).toBeGreaterThan(
          bytes - 2 * most,
        );
      for (const { rows, payloads, first: number } of held) {
        const read = ring.read(rows);
        expect(read.count).toBe(payloads.length);
        payloads.forEach((payload, row) => {
          const n = number + row;
          expect(read.payload(row)).toEqual(payload);
          expect([read.slot[row], read.event[row], read.cpu[row], read.ring[row]]).toEqual([
            n,
            3 * n,
            5 * n,
            7 * n,
          ]);
          expect([read.timeNs[row], read.sequence[row]]).toEqual([n * 1e9, 2 * n]);
        });
      }
      for (const { rows } of kept.slice(0, kept.length - held.length))
        expect(() => ring.read(rows)).toThrow(RangeError);
    }),
  );
});

test('a batch without rows takes no room', () => {
  const ring = new RowRing(64);
  const { count } = ring.read(ring.append(emptyBatch));
  expect(count).toBe(0);
});

test('of a batch that is larger than the ring nothing is kept', () => {
  const ring = new RowRing(1024);
  const before = ring.append(batchOf([new Uint8Array([1])], 0));
  const rows = ring.append(
    batchOf(
      Array.from({ length: 20 }, () => new Uint8Array(64)),
      1,
    ),
  );
  expect([ring.holds(before), ring.holds(rows)]).toEqual([false, false]);
  const after = ring.append(batchOf([new Uint8Array([7])], 9));
  expect(ring.read(after).payload(0)).toEqual(new Uint8Array([7]));
});
