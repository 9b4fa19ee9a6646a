// SPDX-License-Identifier: Apache-2.0

/**
 * Fan-out of decoded events to sinks. Synchronous and by batch: a sink reads the rows it wants from the batch and keeps nothing
 * of it; who needs more makes objects of the rows it wants.
 */

import { messageOf } from '../error.ts';
import type { EventBatch } from '../guest/event-batch.ts';
import type { Logger } from '../log.ts';

export interface Sink {
  readonly name: string;
  /** Must not keep the batch: it is reused. */
  deliver(batch: EventBatch): void;
}

export class Bus {
  readonly #sinks = new Set<Sink>();
  readonly #log: Logger;
  /** Batches on which a sink threw. */
  failures = 0;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Returns what takes the sink off again. */
  add(sink: Sink): () => void {
    this.#sinks.add(sink);
    return () => this.#sinks.delete(sink);
  }

  publish(batch: EventBatch): void {
    for (const sink of this.#sinks) {
      try {
        sink.deliver(batch);
      } catch (thrown) {
        this.failures += 1;
        this.#log.error(
          { sink: sink.name, err: thrown },
          `sink ${sink.name} failed on a batch: ${messageOf(thrown)}`,
        );
      }
    }
  }
}
