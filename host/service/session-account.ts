// SPDX-License-Identifier: Apache-2.0

/**
 * What the sessions of one guest delivered and lost, added up: statistics count from the start of an epoch, which outlives a session
 * and ends with the guest's next boot. Nothing that is counted here ever becomes less, whatever the guest writes.
 */

import type { GuestSession } from '../guest/session.ts';
import type { RingStatistics } from '../relay/loss.ts';

export type RingKind = 'critical' | 'other';

interface Losses {
  lost: number;
  gaps: number;
}

export interface Totals {
  /** By this service. */
  readonly delivered: Readonly<Record<RingKind, number>>;
  readonly deliveredBytes: Readonly<Record<RingKind, number>>;
  readonly duplicates: number;
  readonly undecodable: number;
  /** As the guest counts them. */
  readonly lost: Readonly<Record<RingKind, number>>;
  /** As the sequence numbers show them. */
  readonly gaps: Readonly<Record<RingKind, number>>;
  readonly sessions: Readonly<Record<'activated' | 'resumed', number>>;
}

export class SessionAccount {
  readonly #delivered = { critical: 0, other: 0 };
  readonly #deliveredBytes = { critical: 0, other: 0 };
  readonly #lost = { critical: 0, other: 0 };
  readonly #gaps = { critical: 0, other: 0 };
  readonly #sessions = { activated: 0, resumed: 0 };
  #duplicates = 0;
  #undecodable = 0;
  #session: GuestSession | undefined;
  #epoch: bigint | undefined;
  /** Most that was seen in the epoch. */
  #ofEpoch: Record<RingKind, Losses> = nothingLost();

  /** The session now; one that was followed before and is over is accounted for to its end. */
  follow(session: GuestSession | undefined): void {
    if (session === this.#session) return;
    this.#settle();
    this.#session = session;
    if (session === undefined) return;
    this.#sessions[session.resumed ? 'resumed' : 'activated'] += 1;
    if (session.epoch === this.#epoch) return;
    for (const kind of ['critical', 'other'] as const) {
      this.#lost[kind] += this.#ofEpoch[kind].lost;
      this.#gaps[kind] += this.#ofEpoch[kind].gaps;
    }
    this.#epoch = session.epoch;
    this.#ofEpoch = nothingLost();
  }

  totals(): Totals {
    const totals = {
      delivered: { ...this.#delivered },
      deliveredBytes: { ...this.#deliveredBytes },
      duplicates: this.#duplicates,
      undecodable: this.#undecodable + (this.#session?.undecodable ?? 0),
      lost: { ...this.#lost },
      gaps: { ...this.#gaps },
      sessions: { ...this.#sessions },
    };
    for (const ring of this.#rings()) {
      const kind = kindOf(ring);
      totals.delivered[kind] += ring.received;
      totals.deliveredBytes[kind] += ring.receivedBytes;
      totals.duplicates += ring.duplicates;
    }
    this.#look();
    for (const kind of ['critical', 'other'] as const) {
      totals.lost[kind] += this.#ofEpoch[kind].lost;
      totals.gaps[kind] += this.#ofEpoch[kind].gaps;
    }
    return totals;
  }

  #rings(): readonly RingStatistics[] {
    return this.#session?.statistics.perRing ?? [];
  }

  /** A record that comes late closes its gap, and a guest may set its counter back: the most that was seen counts. */
  #look(): void {
    const now = nothingLost();
    for (const ring of this.#rings()) {
      now[kindOf(ring)].lost += ring.guestLost;
      now[kindOf(ring)].gaps += ring.gaps;
    }
    for (const kind of ['critical', 'other'] as const) {
      const most = this.#ofEpoch[kind];
      most.lost = Math.max(most.lost, now[kind].lost);
      most.gaps = Math.max(most.gaps, now[kind].gaps);
    }
  }

  #settle(): void {
    this.#look();
    for (const ring of this.#rings()) {
      this.#delivered[kindOf(ring)] += ring.received;
      this.#deliveredBytes[kindOf(ring)] += ring.receivedBytes;
      this.#duplicates += ring.duplicates;
    }
    this.#undecodable += this.#session?.undecodable ?? 0;
  }
}

const nothingLost = (): Record<RingKind, Losses> => ({
  critical: { lost: 0, gaps: 0 },
  other: { lost: 0, gaps: 0 },
});

export const kindOf = ({ critical }: Pick<RingStatistics, 'critical'>): RingKind =>
  critical ? 'critical' : 'other';
