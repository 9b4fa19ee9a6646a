// SPDX-License-Identifier: Apache-2.0

/** What `stonith_admin --output-as=xml` says. */

import { parseXml } from './xml.ts';

/** What became of an attempt to fence a node. */
export interface FenceEvent {
  readonly status: 'success' | 'failed' | 'pending';
  /** In milliseconds since 1970, exact to a second; undefined: it is under way. */
  readonly completedMs: number | undefined;
}

/** Of `--history NODE`; throws PROTOCOL where it is something else. */
export function readFenceHistory(xml: string): readonly FenceEvent[] {
  return parseXml(xml, 'pacemaker-result')
    .descendants('fence_event')
    .map((event) => {
      const completedMs = Date.parse((event.text('completed') ?? '').replace(' ', 'T'));
      const status = event.text('status');
      return {
        status: status === 'success' || status === 'failed' ? status : 'pending',
        completedMs: Number.isNaN(completedMs) ? undefined : completedMs,
      };
    });
}

/** Of `--list NODE`: the devices that can fence it. */
export const readFenceDevices = (xml: string): readonly string[] =>
  parseXml(xml, 'pacemaker-result')
    .descendants('item')
    .map((item) => item.content.trim());
