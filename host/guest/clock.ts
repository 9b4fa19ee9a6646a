// SPDX-License-Identifier: Apache-2.0

/**
 * Aligns the guest's CLOCK_BOOTTIME with the host's CLOCK_MONOTONIC by ping and pong, as NTP does (RFC 5905, section 8): the
 * offset lies within half of the round trip of the estimate. The sample with the smallest bound is kept; its bound grows
 * with age by the largest drift that is assumed, so that an old good sample yields to a new one in time. A sample that cannot be
 * true together with the kept one shows that the guest's clock stepped: its machine was paused, saved or migrated.
 */

export interface ClockSample {
  /** Host clock when the ping left, ns. */
  readonly sentNs: bigint;
  /** Guest clock when the ping arrived and when the pong left, ns. */
  readonly guestReceivedNs: bigint;
  readonly guestSentNs: bigint;
  /** Host clock when the pong was read, ns. */
  readonly receivedNs: bigint;
}

/** 200 ppm: twice what a kernel lets its clock be slewed beyond a crystal's own error. */
const driftPerNs = 200e-6;

export class ClockAlignment {
  #offsetNs = 0;
  #boundNs = Number.POSITIVE_INFINITY;
  #atNs = 0;

  /** True once a first sample was taken. */
  get aligned(): boolean {
    return this.#boundNs !== Number.POSITIVE_INFINITY;
  }

  /** What to add to guest time for host time, in ns. */
  get offsetNs(): number {
    return this.#offsetNs;
  }

  /** Largest error of the offset at host time `nowNs`, in ns. */
  boundNs(nowNs: number): number {
    return this.#boundNs + Math.max(0, nowNs - this.#atNs) * driftPerNs;
  }

  /** Returns false where the sample is impossible (a guest that lies about its clock): it is not used. */
  add(sample: ClockSample): boolean {
    const roundTrip = Number(sample.receivedNs - sample.sentNs);
    const inGuest = Number(sample.guestSentNs - sample.guestReceivedNs);
    if (inGuest < 0 || inGuest > roundTrip) return false;
    const bound = (roundTrip - inGuest) / 2;
    const now = Number(sample.receivedNs);
    const offset =
      Number(sample.sentNs - sample.guestReceivedNs + (sample.receivedNs - sample.guestSentNs)) / 2;
    const stepped = Math.abs(offset - this.#offsetNs) > bound + this.boundNs(now);
    if (stepped || bound <= this.boundNs(now)) {
      this.#offsetNs = offset;
      this.#boundNs = bound;
      this.#atNs = now;
    }
    return true;
  }

  /** Host CLOCK_MONOTONIC of a guest time stamp, in ns. */
  toHostNs(guestNs: number): number {
    return guestNs + this.#offsetNs;
  }
}
