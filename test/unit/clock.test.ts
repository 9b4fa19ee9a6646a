// SPDX-License-Identifier: Apache-2.0

import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ClockAlignment } from '../../host/guest/clock.ts';

const second = 1_000_000_000;
const ppm = 1e-6;

/** A ping that took `outNs` there and `backNs` back, with the guest's clock `offsetNs` behind the host's. */
function sample(sentNs: number, outNs: number, inGuestNs: number, backNs: number, offsetNs: number) {
  return {
    sentNs: BigInt(sentNs),
    guestReceivedNs: BigInt(Math.round(sentNs + outNs - offsetNs)),
    guestSentNs: BigInt(Math.round(sentNs + outNs + inGuestNs - offsetNs)),
    receivedNs: BigInt(sentNs + outNs + inGuestNs + backNs),
  };
}

describe('clock alignment', () => {
  test('a symmetric round trip gives the exact offset; half of it is the bound, and what drifts meanwhile', () => {
    const clock = new ClockAlignment();
    expect(clock.aligned).toBe(false);
    expect(clock.boundNs(0)).toBe(Number.POSITIVE_INFINITY);
    expect(clock.add(sample(10 * second, 100_000, 50_000, 100_000, 7 * second))).toBe(true);
    expect(clock.aligned).toBe(true);
    expect(clock.alignment.offsetNs(10 * second)).toBe(7 * second);
    expect(clock.boundNs(10 * second + 250_000)).toBe(100_000 + 50);
    expect(clock.alignment.hostNs(3 * second)).toBe(10 * second);
  });

  test('a worse sample is not taken while the good one is fresh, and is when that has aged', () => {
    const clock = new ClockAlignment();
    clock.add(sample(0, 1_000, 0, 1_000, 5 * second));
    clock.add(sample(second / 1000, 400_000, 0, 0, 5 * second));
    expect(clock.alignment.offsetNs(0)).toBe(5 * second);
    // After 2 s at 200 ppm the old bound is 401 µs: a sample with 200 µs is better now.
    clock.add(sample(2 * second, 400_000, 0, 0, 5 * second));
    expect(clock.alignment.offsetNs(0)).toBe(5 * second - 200_000);
  });

  test('a guest that claims to have held the ping longer than the round trip is not believed', () => {
    const clock = new ClockAlignment();
    const impossible = { ...sample(0, 10, 10, 10, 0), guestSentNs: 1_000_000n };
    expect(clock.add(impossible)).toBe(false);
    expect(clock.aligned).toBe(false);
  });

  test('the rate is known after 20 s: the bound then grows slowly, and follows the drift', () => {
    const clock = new ClockAlignment();
    const rate = 120 * ppm;
    const offsetAt = (hostNs: number) => 3 * second + hostNs * rate;
    const ping = (atNs: number) => clock.add(sample(atNs, 100_000, 0, 100_000, offsetAt(atNs + 100_000)));
    ping(0);
    ping(10 * second);
    expect(clock.settled).toBe(false);
    expect(clock.boundNs(20 * second)).toBeGreaterThan(2e6);
    ping(21 * second);
    expect(clock.settled).toBe(true);
    const laterNs = 51 * second;
    expect(clock.boundNs(laterNs)).toBeLessThan(600_000);
    expect(Math.abs(clock.alignment.offsetNs(laterNs) - offsetAt(laterNs))).toBeLessThan(
      clock.boundNs(laterNs),
    );
    // Half an hour of a sample a minute: 5 ppm are left, for the rate may change.
    for (let at = 60; at <= 1_800; at += 60) ping(at * second);
    expect(clock.boundNs(1_860 * second)).toBeLessThan(600_000);
  });

  test('samples that are exact tell the rate after a second', () => {
    const clock = new ClockAlignment();
    const rate = -30 * ppm;
    const look = (atNs: number) => clock.add(sample(atNs, 300, 0, 300, 3 * second + atNs * rate));
    look(0);
    expect(clock.boundNs(0)).toBeLessThan(1_000);
    look(second / 4);
    expect(clock.settled).toBe(false);
    look(second);
    expect(clock.settled).toBe(true);
    expect(Math.abs(clock.alignment.offsetNs(61 * second) - 3 * second - 61 * second * rate)).toBeLessThan(
      clock.boundNs(61 * second),
    );
    expect(clock.boundNs(61 * second)).toBeLessThan(400_000);
  });

  test('a rate that changes for good is found, whatever was known before', () => {
    const clock = new ClockAlignment();
    let offset = 0;
    for (let at = 0; at <= 3_600; at += 10) {
      offset += 10 * second * (at < 1_800 ? 20 * ppm : 24 * ppm);
      clock.add(sample(at * second, 50_000, 0, 50_000, offset));
      expect(Math.abs(clock.alignment.offsetNs(at * second) - offset)).toBeLessThan(
        clock.boundNs(at * second + 100_000),
      );
    }
    const later = 3_660 * second;
    expect(Math.abs(clock.alignment.offsetNs(later) - offset - 60 * second * 24 * ppm)).toBeLessThan(20_000);
  });

  test('a step is seen at the next sample, and all begins anew with it', () => {
    const clock = new ClockAlignment();
    for (let at = 0; at <= 60; at += 10) clock.add(sample(at * second, 50_000, 0, 50_000, 7 * second));
    expect(clock.settled).toBe(true);
    clock.add(sample(70 * second, 400_000, 0, 400_000, 9 * second));
    expect(clock.settled).toBe(false);
    expect(clock.alignment.offsetNs(70 * second)).toBe(9 * second);
    expect(clock.boundNs(80 * second)).toBeGreaterThan(2e6);
  });

  test('a guest time outside of when it can have been shows a step without a sample', () => {
    const clock = new ClockAlignment();
    expect(clock.contradicts(12345, 0, 1)).toBe(false);
    clock.add(sample(second, 50_000, 0, 50_000, 7 * second));
    const [from, to] = [10 * second, 11 * second];
    expect(clock.contradicts(3.5 * second, from, to)).toBe(false);
    // On the edge, within the bound.
    expect(clock.contradicts(3 * second - 1_000_000, from, to)).toBe(false);
    expect(clock.contradicts(2.9 * second, from, to)).toBe(true);
    expect(clock.contradicts(4.1 * second, from, to)).toBe(true);
    expect(clock.contradicts(2 ** 64, from, to)).toBe(true);
  });
});

describe('whatever the delays and the rate, the true offset lies within the bound', () => {
  const delay = fc.oneof(fc.integer({ min: 0, max: second }), fc.integer({ min: 20_000, max: 2_000_000 }));
  const rateOf = fc.double({ min: -200 * ppm, max: 200 * ppm, noNaN: true });
  const pings = fc.array(
    fc.record({
      afterNs: fc.oneof(
        fc.integer({ min: 0, max: 2 * second }),
        fc.integer({ min: 0, max: 60 * second }),
        fc.integer({ min: 0, max: 2_000 * second }),
      ),
      out: delay,
      inside: delay,
      back: delay,
    }),
    { minLength: 1, maxLength: 60 },
  );

  /** The truth: host time less guest time, at a host time; what it was before the last step does not matter any more. */
  class Truth {
    readonly rate: number;
    readonly offset: number;
    readonly sinceNs: number;
    constructor(rate: number, offset: number, sinceNs: number) {
      this.rate = rate;
      this.offset = offset;
      this.sinceNs = sinceNs;
    }
    at(hostNs: number): number {
      return this.offset + (hostNs - this.sinceNs) * this.rate;
    }
    ping(clock: ClockAlignment, sentNs: number, out: number, inside: number, back: number): number {
      const received = sentNs + out + inside + back;
      clock.add({
        sentNs: BigInt(sentNs),
        guestReceivedNs: BigInt(Math.round(sentNs + out - this.at(sentNs + out))),
        guestSentNs: BigInt(Math.round(sentNs + out + inside - this.at(sentNs + out + inside))),
        receivedNs: BigInt(received),
      });
      return received;
    }
    /** Now and until the next samples; a microsecond for the rounding of large numbers. */
    holds(clock: ClockAlignment, nowNs: number): void {
      for (const ahead of [0, 1, 10, 60, 2_000]) {
        const at = nowNs + ahead * second;
        expect(Math.abs(clock.alignment.offsetNs(at) - this.at(at))).toBeLessThanOrEqual(
          clock.boundNs(at) + 1_000,
        );
      }
    }
  }

  test('at a constant rate', () => {
    fc.assert(
      fc.property(rateOf, fc.integer({ min: -1e12, max: 1e12 }), pings, (rate, offset, all) => {
        const clock = new ClockAlignment();
        const truth = new Truth(rate, offset, 2e12);
        let now = 2e12;
        for (const { afterNs, out, inside, back } of all) {
          now = truth.ping(clock, now + afterNs, out, inside, back);
          truth.holds(clock, now);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test('after a step that is larger than what is not known', () => {
    fc.assert(
      fc.property(
        rateOf,
        rateOf,
        pings,
        fc.integer({ min: 0, max: 1e12 }),
        fc.boolean(),
        pings,
        (rate, rateAfter, before, jump, back, after) => {
          const clock = new ClockAlignment();
          let truth = new Truth(rate, 1e12, 2e12);
          let now = 2e12;
          for (const ping of before)
            now = truth.ping(clock, now + ping.afterNs, ping.out, ping.inside, ping.back);
          // Seen for certain: more than both bounds at the next sample together, and what drifts until then.
          const [first] = after;
          const untilNs = (first?.afterNs ?? 0) + 3 * second;
          const certain = 2 * clock.boundNs(now + untilNs) + 3 * second + untilNs * 400 * ppm;
          const step = (certain + jump) * (back ? -1 : 1);
          truth = new Truth(rateAfter, truth.at(now) + step, now);
          for (const ping of after) {
            now = truth.ping(clock, now + ping.afterNs, ping.out, ping.inside, ping.back);
            truth.holds(clock, now);
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });
});
