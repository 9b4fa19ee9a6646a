// SPDX-License-Identifier: Apache-2.0

/**
 * The newest events in memory, for `vesper events --since`. Whole batches are kept as they came, columns and payload copied
 * at once, and decoded only when somebody asks; what had to be forgotten is counted.
 */

import { randomBytes } from 'node:crypto';
import type { EventBatch } from '../guest/event-batch.ts';
import type { Sink } from './bus.ts';

const defaultBytes = 8 << 20;

export class RecentEvents implements Sink {
  readonly name = 'recent';
  /** Another one in each service: 12 hexadecimal digits. */
  readonly id = randomBytes(6).toString('hex');
  readonly #maximumBytes: number;
  /** A queue: what lies before `#head` was dropped. */
  #batches: (EventBatch | undefined)[] = [];
  #head = 0;
  /** Number of the batch at `#head`, counted from the first that came. */
  #oldest = 0;
  #bytes = 0;
  /** Events that were seen and are no longer kept. */
  forgotten = 0;
  /** Events that ever came. */
  seen = 0;

  constructor(maximumBytes: number = defaultBytes) {
    this.#maximumBytes = maximumBytes;
  }

  /** Number of the oldest batch that is kept. */
  get oldest(): number {
    return this.#oldest;
  }

  /** Number of the next batch to come. */
  get next(): number {
    return this.#oldest + this.#batches.length - this.#head;
  }

  /** A batch by its number; undefined where it is forgotten, or has not come yet. */
  at(number: number): EventBatch | undefined {
    return number < this.#oldest ? undefined : this.#batches[this.#head + number - this.#oldest];
  }

  deliver(batch: EventBatch): void {
    const kept = batch.snapshot();
    this.seen += kept.length;
    this.#batches.push(kept);
    this.#bytes += kept.byteLength;
    while (this.#bytes > this.#maximumBytes && this.#head < this.#batches.length - 1) this.#forgetOldest();
    if (this.#head > 64 && this.#head * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#head);
      this.#head = 0;
    }
  }

  #forgetOldest(): void {
    const oldest = this.#batches[this.#head];
    this.#batches[this.#head] = undefined;
    this.#head += 1;
    this.#oldest += 1;
    this.#bytes -= oldest?.byteLength ?? 0;
    this.forgotten += oldest?.length ?? 0;
  }
}
