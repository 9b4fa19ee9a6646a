// SPDX-License-Identifier: Apache-2.0

import type { ManagedGuest } from '../service/managed-guest.ts';
import type { GuestHealth } from './view.ts';

export type Watched = Pick<ManagedGuest, 'state' | 'kernelDied' | 'session'>;

/**
 * What a cluster manager may conclude from a guest's state. A session that ended proves nothing: reboot, migration and a cut
 * channel look the same.
 */
export function guestHealth({ state, kernelDied, session }: Watched): GuestHealth {
  switch (state) {
    case 'active':
    case 'degraded':
    case 'reachable':
      return 'alive';
    case 'stopped':
      return 'stopped';
    case 'lost':
      if (kernelDied) return 'dead';
      return session === undefined ? 'unknown' : 'silent';
    case 'running':
    case 'undefined':
      return 'unknown';
  }
}
