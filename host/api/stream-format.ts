// SPDX-License-Identifier: Apache-2.0

/** The two forms of the event stream: the same JSON documents as lines, or as Server-Sent Events (HTML standard, section 9.2). */

import { eventJson, type VesperEvent } from '../guest/event.ts';
import { isoMicroseconds } from '../guest/wall-clock.ts';

/**
 * Why a reader misses events: it was too slow; what it asked for is no longer kept; the service was started anew, and how many there
 * were nobody knows.
 */
export type MissedReason = 'slow' | 'forgotten' | 'restarted';

export interface StreamFormat {
  readonly contentType: string;
  event(event: VesperEvent, id: string): string;
  /** `count` is null where it is not known. */
  missed(count: number | null, reason: MissedReason): string;
  /** That all up to `id` was sent, or did not pass the filter; empty where the form has no word for it. */
  position(id: string): string;
}

const eventDocument = (event: VesperEvent, id: string): string =>
  JSON.stringify({ ...eventJson(event, isoMicroseconds), id });
const missedDocument = (count: number | null, reason: MissedReason): string =>
  JSON.stringify({ type: 'lost', count, reason });

export const ndjson: StreamFormat = {
  contentType: 'application/x-ndjson',
  event: (event, id) => `${eventDocument(event, id)}\n`,
  missed: (count, reason) => `${missedDocument(count, reason)}\n`,
  position: () => '',
};

export const serverSentEvents: StreamFormat = {
  contentType: 'text/event-stream',
  event: (event, id) => `id: ${id}\ndata: ${eventDocument(event, id)}\n\n`,
  missed: (count, reason) => `event: missed\ndata: ${missedDocument(count, reason)}\n\n`,
  // Without data it is no event, and yet a client remembers it.
  position: (id) => `id: ${id}\n\n`,
};
