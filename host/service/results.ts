// SPDX-License-Identifier: Apache-2.0

/** What the service says of a guest and of an attach or detach. */

import type { PointState } from '../guest/probe-state.ts';

export const guestStates = [
  'undefined',
  'stopped',
  'running',
  'reachable',
  'active',
  'degraded',
  'lost',
] as const;
export type GuestState = (typeof guestStates)[number];

/** Result of attaching or detaching one probe. */
export interface ProbeResult {
  readonly probe: string;
  readonly ok: boolean;
  /** One sentence: what holds now, or why not and what to do. */
  readonly message: string;
  readonly warnings: readonly string[];
  readonly armed_points: number;
  readonly points: readonly PointState[];
  /** From the request to the answer, in ms. */
  readonly took_ms: number;
  /** Duration of init_module in the guest, in ms. */
  readonly load_ms: number;
  /** Name of the guest kernel's errno, empty where it loaded or was not tried. */
  readonly errno: string;
}
