// SPDX-License-Identifier: Apache-2.0

/**
 * The newest events in memory, for `vesper events --since`. Whole batches are kept as they came, columns and payload copied
 * at once, and decoded only when somebody asks; what had to be forgotten is counted.
 */

import { randomBytes } from 'node:crypto';
import { EventBatch, type KeptBatch } from '../guest/event-batch.ts';
import { RowRing } from '../relay/row-ring.ts';
import type { Sink } from './bus.ts';

const defaultBytes = 8 << 20;
/** A guest that says little fills its batches with one event each: then it is their objects that take memory. */
const bytesPerBatch = 256;

export class RecentEvents implements Sink {
  readonly name = 'recent';
  /** Another one in each service: 12 hexadecimal digits. */
  readonly id = randomBytes(6).toString('hex');
  readonly #rows: RowRing;
  readonly #maximumBatches: number;
  /** A queue: what lies before `#head` was dropped. */
  #batches: (KeptBatch | undefined)[] = [];
  #head = 0;
  /** Number of the batch at `#head`, counted from the first that came. */
  #oldest = 0;
  /** Events that were seen and are no longer kept. */
  forgotten = 0;
  /** Events that ever came. */
  seen = 0;

  /** Of rows `maximumBytes`, a multiple of 8; of what belongs to their batches no more than that again. */
  constructor(maximumBytes: number = defaultBytes) {
    this.#rows = new RowRing(maximumBytes);
    this.#maximumBatches = Math.ceil(maximumBytes / bytesPerBatch);
  }

  /** Number of the oldest batch that is kept. */
  get oldest(): number {
    return this.#oldest;
  }

  /** Number of the next batch to come. */
  get next(): number {
    return this.#oldest + this.#batches.length - this.#head;
  }

  /**
   * A batch by its number; undefined where it is forgotten, or has not come yet. Its memory is written again: valid until the caller
   * lets other events come.
   */
  at(number: number): EventBatch | undefined {
    const kept = number < this.#oldest ? undefined : this.#batches[this.#head + number - this.#oldest];
    return kept === undefined ? undefined : EventBatch.restored(kept, this.#rows);
  }

  deliver(batch: EventBatch): void {
    this.seen += batch.length;
    this.#batches.push(batch.keepIn(this.#rows));
    while (this.#forgets(this.#batches[this.#head])) this.#forgetOldest();
    if (this.#head > 64 && this.#head * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#head);
      this.#head = 0;
    }
  }

  #forgets(oldest: KeptBatch | undefined): boolean {
    if (oldest === undefined) return false;
    return !this.#rows.holds(oldest.rows) || this.#batches.length - this.#head > this.#maximumBatches;
  }

  #forgetOldest(): void {
    this.forgotten += this.#batches[this.#head]?.rows.count ?? 0;
    this.#batches[this.#head] = undefined;
    this.#head += 1;
    this.#oldest += 1;
  }
}
