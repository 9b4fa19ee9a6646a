// SPDX-License-Identifier: Apache-2.0

import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ClockAlignment } from '../../host/guest/clock.ts';

const second = 1_000_000_000;

/** A ping that took `outNs` there and `backNs` back, with the guest's clock `offsetNs` behind the host's. */
function sample(sentNs: number, outNs: number, inGuestNs: number, backNs: number, offsetNs: number) {
  return {
    sentNs: BigInt(sentNs),
    guestReceivedNs: BigInt(sentNs + outNs - offsetNs),
    guestSentNs: BigInt(sentNs + outNs + inGuestNs - offsetNs),
    receivedNs: BigInt(sentNs + outNs + inGuestNs + backNs),
  };
}

describe('clock alignment', () => {
  test('a symmetric round trip gives the exact offset, half of it is the bound', () => {
    const clock = new ClockAlignment();
    expect(clock.aligned).toBe(false);
    expect(clock.add(sample(10 * second, 100_000, 50_000, 100_000, 7 * second))).toBe(true);
    expect(clock.offsetNs).toBe(7 * second);
    expect(clock.boundNs(10 * second + 250_000)).toBe(100_000);
    expect(clock.toHostNs(3 * second)).toBe(10 * second);
  });

  test('a worse sample is not taken while the good one is fresh, and is when that has aged', () => {
    const clock = new ClockAlignment();
    clock.add(sample(0, 1_000, 0, 1_000, 5 * second));
    clock.add(sample(second / 1000, 400_000, 0, 0, 5 * second));
    expect(clock.offsetNs).toBe(5 * second);
    // After 2 s at 200 ppm the old bound is 401 µs: a sample with 200 µs is better now.
    clock.add(sample(2 * second, 400_000, 0, 0, 5 * second));
    expect(clock.offsetNs).toBe(5 * second - 200_000);
  });

  test('a guest that claims to have held the ping longer than the round trip is not believed', () => {
    const clock = new ClockAlignment();
    const impossible = { ...sample(0, 10, 10, 10, 0), guestSentNs: 1_000_000n };
    expect(clock.add(impossible)).toBe(false);
    expect(clock.aligned).toBe(false);
  });

  test('whatever the delays, the true offset lies within the bound', () => {
    const delay = fc.integer({ min: 0, max: second });
    fc.assert(
      fc.property(delay, delay, delay, fc.integer({ min: -1e12, max: 1e12 }), (out, inside, back, offset) => {
        const clock = new ClockAlignment();
        const taken = sample(2e12, out, inside, back, offset);
        clock.add(taken);
        expect(Math.abs(clock.offsetNs - offset)).toBeLessThanOrEqual(
          clock.boundNs(Number(taken.receivedNs)) + 1,
        );
      }),
    );
  });
});
