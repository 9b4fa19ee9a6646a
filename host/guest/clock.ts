// SPDX-License-Identifier: Apache-2.0

/**
 * Aligns the guest's CLOCK_BOOTTIME with the host's CLOCK_MONOTONIC by question and answer, as NTP does (RFC 5905, section 8): the
 * offset lies within half of the round trip of the estimate. A ping's takes some hundred µs, one through shared memory less than
 * one. The sample with the smallest bound is kept; its bound grows with age by what is not known of the rate at which the clocks drift
 * apart, so that an old good sample yields to a new one in time.
 *
 * That rate is at first only known to be less than 200 ppm; two samples 20 s apart tell it to within their bounds over the time
 * between them, exact ones half a second apart, too. A sample that cannot be true together with what is known shows that a clock stepped
 * (its machine was paused, saved or migrated): then everything that is known begins with that sample.
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
const worstRate = 200e-6;
/** By how much a rate that was measured may change until it is measured again: temperature, a time server's word. */
const rateWander = 5e-6;
/** Half a millisecond in 10 s. */
const settledRate = 50e-6;
/** Samples nearer together say little of the rate, unless they are very exact; those further apart say what it was long ago. */
const shortestBaselineNs = 20e9;
const shortestExactBaselineNs = 0.5e9;
const longestBaselineNs = 600e9;

/** Offset and bound at a host time. */
interface Fix {
  readonly atNs: number;
  readonly offsetNs: number;
  readonly boundNs: number;
}

/** Whether the rate over the time between two samples says something of it now. */
function tellsRate(from: Fix, to: Fix): boolean {
  const baselineNs = to.atNs - from.atNs;
  const exact = from.boundNs + to.boundNs <= baselineNs * rateWander;
  return baselineNs >= (exact ? shortestExactBaselineNs : shortestBaselineNs);
}

/** What is known of a guest's clock; stays as it is. */
export class Alignment {
  readonly #fix: Fix;
  /** Change of the offset per ns. */
  readonly #rate: number;
  readonly #rateBound: number;

  constructor(fix: Fix, rate = 0, rateBound = worstRate) {
    this.#fix = fix;
    this.#rate = rate;
    this.#rateBound = rateBound;
  }

  /** What to add to guest time for host time, at a host time; in ns. */
  offsetNs(hostNs: number): number {
    return this.#fix.offsetNs + (hostNs - this.#fix.atNs) * this.#rate;
  }

  /** Largest error of the offset at a host time, in ns. */
  boundNs(hostNs: number): number {
    return this.#fix.boundNs + Math.abs(hostNs - this.#fix.atNs) * this.#rateBound;
  }

  /** Host CLOCK_MONOTONIC of a guest time, in ns. */
  hostNs(guestNs: number): number {
    const roughly = guestNs + this.#fix.offsetNs;
    return guestNs + this.offsetNs(roughly);
  }
}

/** As long as nothing is known. */
export const unaligned = new Alignment({ atNs: 0, offsetNs: 0, boundNs: Number.POSITIVE_INFINITY });

export class ClockAlignment {
  #now = unaligned;
  #kept: Fix | undefined;
  /** Where the baselines that the rate is measured over begin, and where the next ones will. */
  #anchor: Fix | undefined;
  #nextAnchor: Fix | undefined;
  #rate = 0;
  #rateBound = worstRate;

  /** True once a first sample was taken. */
  get aligned(): boolean {
    return this.#kept !== undefined;
  }

  /** True once the rate is known so well that the bound grows slowly: until then more samples are worth their round trips. */
  get settled(): boolean {
    return this.#rateBound <= settledRate;
  }

  get alignment(): Alignment {
    return this.#now;
  }

  /** Largest error of the offset at host time `nowNs`, in ns. */
  boundNs(nowNs: number): number {
    return this.#now.boundNs(nowNs);
  }

  /** A clock may have stepped, by however little: the next sample begins anew. */
  doubt(): void {
    this.#anchor = undefined;
  }

  /** Whether a guest time cannot have been one between two host times. */
  contradicts(guestNs: number, fromNs: number, toNs: number): boolean {
    if (!this.aligned) return false;
    const hostNs = this.#now.hostNs(guestNs);
    const bound = this.#now.boundNs(hostNs);
    return hostNs + bound < fromNs || hostNs - bound > toNs;
  }

  /** Returns false where the sample is impossible (a guest that lies about its clock): it is not used. */
  add(sample: ClockSample): boolean {
    const roundTrip = Number(sample.receivedNs - sample.sentNs);
    const inGuest = Number(sample.guestSentNs - sample.guestReceivedNs);
    // By the guest's clock it may take a little longer than by ours.
    if (inGuest < 0 || inGuest > roundTrip * (1 + worstRate)) return false;
    const fix: Fix = {
      atNs: Number(sample.receivedNs),
      offsetNs: Number(sample.sentNs - sample.guestReceivedNs + (sample.receivedNs - sample.guestSentNs)) / 2,
      // The clocks drift apart during the round trip, too.
      boundNs: (roundTrip - inGuest) / 2 + roundTrip * worstRate,
    };
    const knownNs = this.#now.boundNs(fix.atNs);
    const stepped = Math.abs(fix.offsetNs - this.#now.offsetNs(fix.atNs)) > fix.boundNs + knownNs;
    const good = fix.boundNs <= knownNs;
    if (stepped || !this.#measureRate(fix, good)) this.#beginWith(fix);
    else if (good) this.#kept = fix;
    const rateBound = Math.min(worstRate, this.#rateBound + rateWander);
    this.#now = new Alignment(this.#kept ?? fix, this.#rate, rateBound);
    return true;
  }

  #beginWith(fix: Fix): void {
    this.#kept = this.#anchor = fix;
    this.#nextAnchor = undefined;
    this.#rate = 0;
    this.#rateBound = worstRate;
  }

  /** False: no rate there can be explains this sample. */
  #measureRate(fix: Fix, good: boolean): boolean {
    const anchor = this.#anchor;
    if (anchor === undefined) return false;
    const baselineNs = fix.atNs - anchor.atNs;
    if (!tellsRate(anchor, fix)) {
      // A new beginning puts the measurement off: only for one that makes it much better.
      if (fix.boundNs < anchor.boundNs / 2) this.#anchor = fix;
      return true;
    }
    if (!this.#takeRate(anchor, fix)) return false;
    if (!good) return true;
    if (baselineNs > longestBaselineNs / 2) this.#nextAnchor ??= fix;
    if (baselineNs > longestBaselineNs && this.#nextAnchor !== undefined) {
      this.#anchor = this.#nextAnchor;
      this.#nextAnchor = undefined;
      // What was measured over the old baseline is forgotten, however exact: it may no longer be so.
      this.#rateBound = worstRate;
      return this.#takeRate(this.#anchor, fix);
    }
    return true;
  }

  /** What two samples say of the rate, if that is more than what is known. False: they exclude each other. */
  #takeRate(from: Fix, to: Fix): boolean {
    if (!tellsRate(from, to)) return true;
    const baselineNs = to.atNs - from.atNs;
    const measured = (to.offsetNs - from.offsetNs) / baselineNs;
    const error = (to.boundNs + from.boundNs) / baselineNs;
    const least = Math.max(measured - error, -worstRate);
    const most = Math.min(measured + error, worstRate);
    if (least > most) return false;
    if ((most - least) / 2 > this.#rateBound) return true;
    this.#rate = (least + most) / 2;
    this.#rateBound = (most - least) / 2;
    return true;
  }
}
