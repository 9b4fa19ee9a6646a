// SPDX-License-Identifier: Apache-2.0

/** What arrived and what did not, per ring and in all. Counts are of records since the start of the epoch. */

import type { RingLayout } from './layout.ts';
import { type Fault, faultNames, statisticsFields, statisticsPerRing } from './native.ts';

export interface RingStatistics {
  readonly cpu: number;
  readonly critical: boolean;
  /** Why the ring was given up. */
  readonly fault: Fault;
  /** Records taken by this reader, each once. */
  readonly received: number;
  readonly receivedBytes: number;
  /** Records that readers before this one released in the same epoch. */
  readonly receivedBefore: number;
  /** One more than the highest sequence number seen. */
  readonly nextSequence: number;
  /** Sequence numbers below `nextSequence` that nobody received. */
  readonly gaps: number;
  /** Records whose sequence number had been seen. */
  readonly duplicates: number;
  /** Records that came after a higher number: an interrupt's record may precede the one it interrupted. */
  readonly late: number;
  readonly paddings: number;
  /** Records the guest tried to write. */
  readonly guestAttempts: number;
  /** Of these, lost because the ring was full. */
  readonly guestLost: number;
  /** Published by the guest and not yet taken. */
  readonly pendingBytes: number;
  /** How often the guest was found to have overwritten the host's half of the ring's block; it was written anew. */
  readonly overwritten: number;
  /** What the ring holds at most. */
  readonly dataBytes: number;
}

export interface LossReport {
  readonly attempts: number;
  /** Received by this and by former readers. */
  readonly delivered: number;
  /** As the guest counts. */
  readonly lost: number;
  /** As the sequence numbers tell; trails `lost` by what was lost after the last record that arrived. */
  readonly gaps: number;
  /** Neither delivered nor counted lost: under way, or out of reach in a ring that was given up. */
  readonly outstanding: number;
  readonly duplicates: number;
  /** Rings given up. */
  readonly quarantined: number;
  /** As of the rings, together. */
  readonly overwritten: number;
  /** Nothing is outstanding, and both ways of counting agree. Meaningful when the guest is quiet. */
  readonly agrees: boolean;
}

/** Numbers of `NativeRegion.statistics()` with their names. */
export function namedStatistics(raw: Float64Array, rings: readonly RingLayout[]): RingStatistics[] {
  return rings.map((ring, index) => {
    const at = (field: (typeof statisticsFields)[number]): number =>
      raw[index * statisticsPerRing + statisticsFields.indexOf(field)] ?? 0;
    return {
      cpu: ring.cpu,
      critical: ring.critical,
      fault: faultNames[at('fault')] ?? 'none',
      received: at('received'),
      receivedBytes: at('receivedBytes'),
      receivedBefore: at('receivedBefore'),
      nextSequence: at('nextSequence'),
      gaps: at('gaps'),
      duplicates: at('duplicates'),
      late: at('late'),
      paddings: at('paddings'),
      guestAttempts: at('guestAttempts'),
      guestLost: at('guestLost'),
      pendingBytes: at('pendingBytes'),
      overwritten: at('overwritten'),
      dataBytes: ring.dataBytes,
    };
  });
}

/** Whether one ring's two accounts agree, with nothing under way. */
function agrees(ring: RingStatistics): boolean {
  const delivered = ring.receivedBefore + ring.received;
  // What was lost after the last record that arrived shows in no gap, only in the number of attempts.
  const missing = ring.gaps + (ring.guestAttempts - ring.nextSequence);
  return delivered + ring.guestLost === ring.guestAttempts && missing === ring.guestLost;
}

export function lossReport(rings: readonly RingStatistics[]): LossReport {
  const total = (of: (ring: RingStatistics) => number): number =>
    rings.reduce((sum, ring) => sum + of(ring), 0);
  const attempts = total((r) => r.guestAttempts);
  const delivered = total((r) => r.receivedBefore + r.received);
  const lost = total((r) => r.guestLost);
  return {
    attempts,
    delivered,
    lost,
    gaps: total((r) => r.gaps),
    outstanding: attempts - delivered - lost,
    duplicates: total((r) => r.duplicates),
    quarantined: rings.filter((r) => r.fault !== 'none').length,
    overwritten: total((r) => r.overwritten),
    agrees: rings.every(agrees),
  };
}
