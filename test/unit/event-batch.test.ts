// SPDX-License-Identifier: Apache-2.0

import { expect, test } from 'vitest';
import { ClockAlignment } from '../../host/guest/clock.ts';
import { EventBatch } from '../../host/guest/event-batch.ts';
import { ProbeTable } from '../../host/guest/probe-table.ts';
import { wallMsOf } from '../../host/guest/wall-clock.ts';
import { RowRing } from '../../host/relay/row-ring.ts';
import { newBatch } from '../harness/relay-fixture.ts';

const second = 1e9;
const incarnation = { guest: 'one', uuid: '', bootId: '' };

test('before the clocks are aligned nobody knows how wrong a host time is', () => {
  const columns = newBatch();
  columns.count = 1;
  columns.timeNs[0] = 5;
  const batch = new EventBatch(incarnation, new ProbeTable(), new ClockAlignment()).bind(columns);
  expect(batch.hostTimeErrorUs(0)).toBeNull();
  expect(batch.toEvent(0).hostTimeErrorUs).toBeNull();
});

test('a record that was long in the ring has the host time of its own moment, and its own error', () => {
  const rate = 150e-6;
  const nowNs = Number(process.hrtime.bigint());
  const offsetAt = (hostNs: number) => 7 * second + (hostNs - nowNs) * rate;
  const clock = new ClockAlignment();
  for (const agoS of [300, 30, 0]) {
    const at = nowNs - agoS * second;
    const guest = BigInt(Math.round(at - offsetAt(at)));
    const [sentNs, receivedNs] = [BigInt(Math.round(at)) - 50_000n, BigInt(Math.round(at)) + 50_000n];
    clock.add({ sentNs, guestReceivedNs: guest, guestSentNs: guest, receivedNs });
  }
  const columns = newBatch();
  columns.count = 2;
  const hostNs = [nowNs, nowNs - 200 * second];
  hostNs.forEach((ns, row) => {
    columns.timeNs[row] = ns - offsetAt(ns);
  });
  const batch = new EventBatch(incarnation, new ProbeTable(), clock).bind(columns);
  const ring = new RowRing(1 << 16);
  const kept = EventBatch.restored(batch.keepIn(ring), ring);
  for (const [row, ns] of hostNs.entries()) {
    const errorUs = batch.hostTimeErrorUs(row) ?? 0;
    expect(Math.abs(batch.hostTimeMs(row) - wallMsOf(ns)) * 1e3).toBeLessThan(errorUs);
    // At 150 ppm unaccounted for, 200 s would be 30 ms.
    expect(errorUs).toBeLessThan(5_000);
    expect(kept.hostTimeMs(row)).toBe(batch.hostTimeMs(row));
    expect(kept.toEvent(row).hostTimeErrorUs).toBe(errorUs);
  }
  expect(batch.hostTimeErrorUs(1)).toBeGreaterThan(2 * (batch.hostTimeErrorUs(0) ?? 0));
  expect(batch.latencyUs(1)).toBeGreaterThan(199e6);
});
