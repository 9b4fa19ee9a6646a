// SPDX-License-Identifier: Apache-2.0

/**
 * Ids of events in a stream: `<service>-<number>`. The number counts the events of this service up to and including that one,
 * whether or not they passed the reader's filter; the service is another one after each start.
 */

import { VesperError } from '../error.ts';
import type { RecentEvents } from '../service/recent-events.ts';

export const eventId = ({ id }: RecentEvents, number: number): string => `${id}-${number}`;

/** Where a reader with that id goes on: after how many events, or `undefined` where another service gave the id. Throws USAGE. */
export function positionAfter(recent: RecentEvents, text: string): number | undefined {
  const [, service, digits] = /^([0-9a-f]{12})-(\d{1,15})$/.exec(text) ?? [];
  const number = Number(digits);
  if (service === undefined || (service === recent.id && number > recent.seen))
    throw new VesperError(
      'USAGE',
      `"${text.slice(0, 80)}" is no id of an event: give that of one you were sent`,
    );
  return service === recent.id ? number : undefined;
}
