// SPDX-License-Identifier: Apache-2.0

/** The last events of one boot of a guest, of those that are kept. */

import { eventJson } from '../guest/event.ts';
import { isoMicroseconds } from '../guest/wall-clock.ts';
import type { RecentEvents } from './recent-events.ts';

/** A guest that says nothing among others that say much is not looked for for ever. */
const mostBatches = 2_048;

/** As `vesper events --json` has them, oldest first. */
export function lastEvents(
  recent: RecentEvents,
  uuid: string,
  bootId: string,
  most: number,
): readonly Record<string, unknown>[] {
  const found: Record<string, unknown>[] = [];
  const oldest = Math.max(recent.oldest, recent.next - mostBatches);
  for (let number = recent.next - 1; number >= oldest && found.length < most; number -= 1) {
    const batch = recent.at(number);
    if (batch === undefined || batch.incarnation.uuid !== uuid || batch.incarnation.bootId !== bootId)
      continue;
    const rows = batch.rowsInTime();
    for (let at = rows.length - 1; at >= 0 && found.length < most; at -= 1)
      found.push(eventJson(batch.toEvent(rows[at] as number), isoMicroseconds));
  }
  return found.reverse();
}
