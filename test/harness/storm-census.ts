// SPDX-License-Identifier: Apache-2.0

/**
 * Counts rows over their columns, no object per event, and judges every record of the fixture `storm`: what its fields have to
 * be follows from its thread and number, so a torn, doubled or reordered one is told.
 */

import type { EventBatch } from '../../host/guest/event-batch.ts';
import type { Sink } from '../../host/service/bus.ts';

/** `struct blast` of test/fixtures/probes/storm. */
const blast = { event: 1, bytes: 32, number: 0, thread: 8, sum: 12, first: 16, second: 24 } as const;
const goldenLow = 0x7f4a7c15;
const goldenHigh = 0x9e3779b9;
const maximumThreads = 256;

export class StormCensus implements Sink {
  readonly name = 'census';
  /** Rows of each probe and event, as "probe.id". */
  readonly #rows = new Map<string, number>();
  /** Records whose fields contradict each other. */
  torn = 0;
  /** Records that came twice, or after a later one of their thread. */
  disordered = 0;
  /** Next number that a thread may have; its records came in this order. */
  readonly #next = new Float64Array(maximumThreads);

  deliver(batch: EventBatch): void {
    const { slot, event } = batch.columns;
    let from = 0;
    for (let row = 1; row <= batch.length; row += 1) {
      if (row < batch.length && slot[row] === slot[from] && event[row] === event[from]) continue;
      this.#run(batch, from, row);
      from = row;
    }
  }

  rows(probe: string, event: number): number {
    return this.#rows.get(`${probe}.${event}`) ?? 0;
  }

  /** Records of the last storm that arrived. */
  get blasts(): number {
    return this.rows('storm', blast.event);
  }

  /** Before the storm's threads count from 0 again; so does `blasts`. */
  newStorm(): void {
    this.#next.fill(0);
    this.#rows.delete(`storm.${blast.event}`);
  }

  /** Rows of one probe and event. */
  #run(batch: EventBatch, from: number, end: number): void {
    if (from === end) return;
    const probe = batch.probeName(from);
    const event = batch.columns.event[from] as number;
    const key = `${probe}.${event}`;
    this.#rows.set(key, (this.#rows.get(key) ?? 0) + end - from);
    if (probe !== 'storm' || event !== blast.event) return;
    for (let row = from; row < end; row += 1) this.#judge(batch, row);
  }

  #judge({ columns }: EventBatch, row: number): void {
    const { view } = columns;
    const at = columns.payloadOffset[row] as number;
    const low = view.getUint32(at + blast.number, true);
    const high = view.getUint32(at + blast.number + 4, true);
    const thread = view.getUint32(at + blast.thread, true);
    const firstLow = view.getUint32(at + blast.first, true);
    const firstHigh = view.getUint32(at + blast.first + 4, true);
    const whole =
      columns.payloadBytes[row] === blast.bytes &&
      high === 0 &&
      thread < maximumThreads &&
      firstLow === Math.imul(low, goldenLow) >>> 0 &&
      firstHigh === (Math.imul(low, goldenHigh) + multiplyHigh(low, goldenLow)) >>> 0 &&
      view.getUint32(at + blast.second, true) === ~firstLow >>> 0 &&
      view.getUint32(at + blast.second + 4, true) === ~firstHigh >>> 0 &&
      // first + second is −1.
      view.getUint32(at + blast.sum, true) === (low + thread - 1) >>> 0;
    if (!whole) {
      this.torn += 1;
      return;
    }
    if (low < (this.#next[thread] as number)) this.disordered += 1;
    this.#next[thread] = low + 1;
  }
}

/** The upper half of the product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle % 0x10000);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(other / 0x10000)) >>> 0;
}
