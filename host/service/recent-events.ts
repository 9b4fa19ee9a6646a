// SPDX-License-Identifier: Apache-2.0

/**
 * The newest events in memory, for `vesper events --since`. Whole batches are kept as they came, columns and payload copied
 * at once, and decoded only when somebody asks; what had to be forgotten is counted.
 */

import type { EventBatch } from '../guest/event-batch.ts';
import type { Sink } from './bus.ts';

const defaultBytes = 8 << 20;
/** Buffers are a power of two long, from this on. */
const smallestBuffer = 256;
/** Buffers of one length that are kept to be used again. */
const sparesOfALength = 4;
/** What the objects of a batch take beside its buffer, about. */
const objectBytes = 1536;

export class RecentEvents implements Sink {
  readonly name = 'recent';
  readonly #maximumBytes: number;
  /** A queue: what lies before `#head` was dropped. */
  #batches: (EventBatch | undefined)[] = [];
  #head = 0;
  /** Number of the batch at `#head`, counted from the first that came. */
  #oldest = 0;
  #bytes = 0;
  /** Of batches that were forgotten, by their length: in a storm the next ones take them, so that nothing becomes garbage. */
  readonly #spare = new Map<number, ArrayBuffer[]>();
  /** Events that were seen and are no longer kept. */
  forgotten = 0;

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

  /**
   * A batch by its number; undefined where it is forgotten, or has not come yet. Its memory is used again once it is forgotten: valid
   * until the caller lets other events come.
   */
  at(number: number): EventBatch | undefined {
    return number < this.#oldest ? undefined : this.#batches[this.#head + number - this.#oldest];
  }

  deliver(batch: EventBatch): void {
    const bytes = Math.max(smallestBuffer, 2 ** Math.ceil(Math.log2(batch.columns.snapshotBytes)));
    while (this.#bytes + bytes + objectBytes > this.#maximumBytes && this.#head < this.#batches.length)
      this.#forgetOldest();
    this.#batches.push(batch.snapshot(this.#spare.get(bytes)?.pop() ?? new ArrayBuffer(bytes)));
    this.#bytes += bytes + objectBytes;
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
    if (oldest === undefined) return;
    this.forgotten += oldest.length;
    const buffer = oldest.columns.timeNs.buffer as ArrayBuffer;
    this.#bytes -= buffer.byteLength + objectBytes;
    const spare = this.#spare.get(buffer.byteLength);
    if (spare === undefined) this.#spare.set(buffer.byteLength, [buffer]);
    else if (spare.length < sparesOfALength) spare.push(buffer);
  }
}
