// SPDX-License-Identifier: Apache-2.0

/**
 * The newest events in memory, for `vesper events --since`. Whole batches are kept as they came, columns and payload copied
 * at once, and decoded only when somebody asks; what had to be forgotten is counted.
 */

import type { VesperEvent } from '../guest/event.ts';
import type { EventBatch } from '../guest/event-batch.ts';
import type { Sink } from './bus.ts';

const defaultBytes = 8 << 20;

export class RecentEvents implements Sink {
  readonly name = 'recent';
  readonly #maximumBytes: number;
  /** A queue: what lies before `#head` was dropped. */
  #batches: (EventBatch | undefined)[] = [];
  #head = 0;
  #bytes = 0;
  /** Events that were seen and are no longer kept. */
  forgotten = 0;

  constructor(maximumBytes: number = defaultBytes) {
    this.#maximumBytes = maximumBytes;
  }

  deliver(batch: EventBatch): void {
    const kept = batch.snapshot();
    this.#batches.push(kept);
    this.#bytes += kept.byteLength;
    while (this.#bytes > this.#maximumBytes && this.#head < this.#batches.length - 1) {
      const oldest = this.#batches[this.#head];
      this.#batches[this.#head] = undefined;
      this.#head += 1;
      this.#bytes -= oldest?.byteLength ?? 0;
      this.forgotten += oldest?.length ?? 0;
    }
    if (this.#head > 64 && this.#head * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Oldest first, with a host time of `sinceMs` (milliseconds since 1970) or later. */
  *since(sinceMs: number): Generator<VesperEvent> {
    for (const batch of this.#batches.slice(this.#head)) {
      if (batch === undefined) continue;
      for (let row = 0; row < batch.length; row += 1) {
        if (batch.hostTimeMs(row) >= sinceMs) yield batch.toEvent(row);
      }
    }
  }
}
