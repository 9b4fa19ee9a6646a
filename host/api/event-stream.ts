// SPDX-License-Identifier: Apache-2.0

/**
 * Events to one reader as NDJSON. A reader that does not keep up never holds up the service: what does not fit into its buffer is
 * dropped, and where events are missing, a line `{"type":"lost","count":…}` tells how many.
 */

import type { Writable } from 'node:stream';
import { eventJson, type VesperEvent } from '../guest/event.ts';
import type { EventBatch } from '../guest/event-batch.ts';
import { isoMicroseconds } from '../guest/wall-clock.ts';
import type { Sink } from '../service/bus.ts';
import type { RecentEvents } from '../service/recent-events.ts';
import type { EventMatcher } from './filter.ts';

const bufferBytes = 8 << 20;
/** So much has to be free before a reader that was too slow gets events again: it is told of few long gaps, not of many short ones. */
const restartBytes = bufferBytes / 2;
/** Kept events are made into text as the reader takes them. */
const replayBytes = 256 << 10;

export class EventStream implements Sink {
  readonly name = 'event stream';
  readonly #out: Writable;
  readonly #matcher: EventMatcher;
  #dropped = 0;

  constructor(out: Writable, matcher: EventMatcher) {
    this.#out = out;
    this.#matcher = matcher;
    out.on('drain', () => {
      if (this.#dropped > 0) this.#out.write(this.#confession());
    });
  }

  /** Events that this reader was too slow for and has not been told of yet. */
  get dropped(): number {
    return this.#dropped;
  }

  deliver(batch: EventBatch): void {
    let lines = '';
    let room = this.#room();
    for (const event of this.#matcher.of(batch)) {
      const line = room > 0 ? eventLine(event) : '';
      room -= line.length;
      if (room <= 0) {
        this.#dropped += 1;
        continue;
      }
      if (this.#dropped > 0) lines += this.#confession();
      lines += line;
    }
    if (lines !== '') this.#out.write(lines);
  }

  /**
   * Kept events with a host time of `sinceMs` (milliseconds since 1970) or later, at the pace of the reader. When this resolves,
   * nothing that is kept is missing: a sink that is added in the same turn goes on without a gap.
   */
  async replay(recent: RecentEvents, sinceMs: number): Promise<void> {
    let position = recent.forgotten;
    for (let number = recent.oldest; number < recent.next && !this.#out.destroyed; number += 1) {
      if (number < recent.oldest) {
        // Whether they would have passed the filter nobody knows any more.
        this.#dropped += recent.forgotten - position;
        position = recent.forgotten;
        number = recent.oldest;
      }
      const batch = recent.at(number);
      if (batch === undefined) continue;
      let lines = this.#confession();
      for (const event of this.#matcher.of(batch)) if (event.hostTimeMs >= sinceMs) lines += eventLine(event);
      if (lines !== '') this.#out.write(lines);
      position += batch.length;
      if (this.#out.writableLength > replayBytes) await drained(this.#out);
    }
  }

  /** Bytes that may be written; none until half of the buffer is free where it overflowed. */
  #room(): number {
    const room = bufferBytes - this.#out.writableLength;
    return this.#dropped > 0 && room < restartBytes ? 0 : room;
  }

  #confession(): string {
    if (this.#dropped === 0) return '';
    const line = `${JSON.stringify({ type: 'lost', count: this.#dropped })}\n`;
    this.#dropped = 0;
    return line;
  }
}

/** Resolves when the reader took what was written, or went away. */
function drained(out: Writable): Promise<void> {
  return new Promise((resolve) => {
    const settle = () => {
      out.off('drain', settle).off('close', settle);
      resolve();
    };
    out.on('drain', settle).on('close', settle);
  });
}

export const eventLine = (event: VesperEvent): string =>
  `${JSON.stringify(eventJson(event, isoMicroseconds))}\n`;
