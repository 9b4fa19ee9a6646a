// SPDX-License-Identifier: Apache-2.0

/**
 * Events to one reader as NDJSON. A reader that does not keep up never holds up the service: what does not fit into its buffer is
 * dropped, and a line `{"type":"lost","count":…}` tells it how much as soon as it reads again.
 */

import type { Writable } from 'node:stream';
import { eventJson, type VesperEvent } from '../guest/event.ts';
import type { EventBatch } from '../guest/event-batch.ts';
import { isoMicroseconds } from '../guest/wall-clock.ts';
import type { Sink } from '../service/bus.ts';
import type { EventMatcher } from './filter.ts';

const bufferBytes = 8 << 20;

export class EventStream implements Sink {
  readonly name = 'event stream';
  readonly #out: Writable;
  readonly #matcher: EventMatcher;
  #dropped = 0;

  constructor(out: Writable, matcher: EventMatcher) {
    this.#out = out;
    this.#matcher = matcher;
    out.on('drain', () => this.#confess());
  }

  /** Events that this reader was too slow for and has not been told of yet. */
  get dropped(): number {
    return this.#dropped;
  }

  deliver(batch: EventBatch): void {
    let lines = '';
    for (const event of this.#matcher.of(batch)) {
      if (this.#out.writableLength + lines.length > bufferBytes) this.#dropped += 1;
      else lines += eventLine(event);
    }
    if (lines !== '') this.#out.write(lines);
  }

  write(event: VesperEvent): void {
    this.#out.write(eventLine(event));
  }

  #confess(): void {
    if (this.#dropped === 0) return;
    this.#out.write(`${JSON.stringify({ type: 'lost', count: this.#dropped })}\n`);
    this.#dropped = 0;
  }
}

export const eventLine = (event: VesperEvent): string =>
  `${JSON.stringify(eventJson(event, isoMicroseconds))}\n`;
