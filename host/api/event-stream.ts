// SPDX-License-Identifier: Apache-2.0

/**
 * Events to one reader. A reader that does not keep up never holds up the service: what does not fit into its buffer is dropped, and
 * where events are missing, it is told how many.
 */

import type { Writable } from 'node:stream';
import type { EventBatch } from '../guest/event-batch.ts';
import type { Sink } from '../service/bus.ts';
import type { RecentEvents } from '../service/recent-events.ts';
import type { EventMatcher } from './filter.ts';
import type { StreamFormat } from './stream-format.ts';
import { eventId } from './stream-position.ts';

const bufferBytes = 8 << 20;
/** So much has to be free before a reader that was too slow gets events again: it is told of few long gaps, not of many short ones. */
const restartBytes = bufferBytes / 2;
/** Kept events are made into text as the reader takes them. */
const replayBytes = 256 << 10;

/** Where a replay begins: with the first event of a time, in ms since 1970, or after as many events as the service had seen. */
export type ReplayStart = { readonly sinceMs: number } | { readonly after: number };

export class EventStream implements Sink {
  readonly name = 'event stream';
  readonly #out: Writable;
  readonly #matcher: EventMatcher;
  readonly #recent: RecentEvents;
  readonly #format: StreamFormat;
  #dropped = 0;

  constructor(out: Writable, matcher: EventMatcher, recent: RecentEvents, format: StreamFormat) {
    this.#out = out;
    this.#matcher = matcher;
    this.#recent = recent;
    this.#format = format;
    out.on('drain', () => {
      this.#write(this.#confession());
    });
  }

  /** Events that this reader was too slow for and has not been told of yet. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Expects the batch to be the last one that the kept events took in. */
  deliver(batch: EventBatch): void {
    const before = this.#recent.seen - batch.length;
    let lines = '';
    let room = this.#room();
    for (const { event, place } of this.#matcher.of(batch)) {
      const line = room > 0 ? this.#format.event(event, eventId(this.#recent, before + place + 1)) : '';
      room -= line.length;
      if (room <= 0) {
        this.#dropped += 1;
        continue;
      }
      if (this.#dropped > 0) lines += this.#confession();
      lines += line;
    }
    this.#write(lines);
  }

  /**
   * Kept events, at the pace of the reader; what it asks for and is no longer kept is said first. When this resolves, nothing that
   * is kept is missing: a sink that is added in the same turn goes on without a gap.
   */
  async replay(start: ReplayStart): Promise<void> {
    const recent = this.#recent;
    const after = 'after' in start ? start.after : 0;
    const sinceMs = 'after' in start ? Number.NEGATIVE_INFINITY : start.sinceMs;
    let position = recent.forgotten;
    if ('after' in start && after < position) this.#write(this.#format.missed(position - after, 'forgotten'));
    for (let number = recent.oldest; number < recent.next && !this.#out.destroyed; number += 1) {
      if (number < recent.oldest) {
        // Whether they would have passed the filter nobody knows any more.
        this.#dropped += recent.forgotten - Math.max(position, after);
        position = recent.forgotten;
        number = recent.oldest;
      }
      const batch = recent.at(number);
      if (batch === undefined) continue;
      let lines = this.#confession();
      if (position + batch.length > after)
        for (const { event, place } of this.#matcher.of(batch))
          if (position + place >= after && event.hostTimeMs >= sinceMs)
            lines += this.#format.event(event, eventId(recent, position + place + 1));
      this.#write(lines);
      position += batch.length;
      if (this.#out.writableLength > replayBytes) await drained(this.#out);
    }
  }

  /** Tell the reader how far it is; not where that would hide from it what it misses. */
  tellPosition(): void {
    if (this.#dropped > 0 || this.#room() <= 0) return;
    this.#write(this.#format.position(eventId(this.#recent, this.#recent.seen)));
  }

  /** Tell the reader that the last event it got was another service's. */
  tellRestarted(): void {
    this.#write(this.#format.missed(null, 'restarted'));
  }

  /** A reader may be gone before that is known to whoever writes. */
  #write(text: string): void {
    if (text !== '' && !this.#out.destroyed) this.#out.write(text);
  }

  /** Bytes that may be written; none until half of the buffer is free where it overflowed. */
  #room(): number {
    const room = bufferBytes - this.#out.writableLength;
    return this.#dropped > 0 && room < restartBytes ? 0 : room;
  }

  #confession(): string {
    if (this.#dropped === 0) return '';
    const line = this.#format.missed(this.#dropped, 'slow');
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
