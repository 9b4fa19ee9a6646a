// SPDX-License-Identifier: Apache-2.0

/** Clocks compared through a region. */

import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import type { ClockAnswer } from '../../host/relay/native.ts';
import { ringBlock } from '../../host/wire/region.ts';
import { startClockGuest } from '../harness/clock-guest.ts';
import { RelayFixture } from '../harness/relay-fixture.ts';

const patientNs = 30e9;
const aheadNs = 5_000_000_000_000n;

async function answered(fixture: RelayFixture, questions: number): Promise<void> {
  const [ring] = fixture.layout.rings;
  const guest = await startClockGuest({
    path: fixture.path,
    blockOffset: ring?.blockOffset ?? 0,
    aheadNs,
    questions,
  });
  onTestFinished(async () => {
    await guest.terminate();
  });
}

const questionIn = (fixture: RelayFixture): bigint =>
  readFileSync(fixture.path).readBigUInt64LE(
    (fixture.layout.rings[0]?.blockOffset ?? 0) + ringBlock.offsets.clock_question,
  );

test('what the guest read lies between question and answer, by its own clock', async () => {
  const fixture = new RelayFixture();
  const region = fixture.openRegion();
  await answered(fixture, Number.POSITIVE_INFINITY);
  const before = process.hrtime.bigint();
  // On a busy machine the thread may be held up in the middle.
  let sample: ClockAnswer | undefined;
  await expect
    .poll(async () => {
      sample = await region.compareClocks(patientNs);
      return sample;
    })
    .toBeDefined();
  const { askedNs, guestNs, answeredNs } = sample ?? { askedNs: 0n, guestNs: 0n, answeredNs: 0n };
  expect(askedNs).toBeGreaterThanOrEqual(before);
  expect(guestNs - aheadNs).toBeGreaterThanOrEqual(askedNs);
  expect(guestNs - aheadNs).toBeLessThanOrEqual(answeredNs);
  expect(answeredNs).toBeLessThanOrEqual(process.hrtime.bigint());
  // The guest is told that nobody asks any more.
  expect(questionIn(fixture)).toBe(0n);
});

test('a guest that stops answering in the middle: what it answered first only showed that it looks', async () => {
  const fixture = new RelayFixture();
  await answered(fixture, 1);
  expect(await fixture.openRegion().compareClocks(patientNs)).toBeUndefined();
  expect(questionIn(fixture)).toBe(0n);
});

test('nobody answers: nothing comes of it, and nobody waits for longer than was said', async () => {
  const fixture = new RelayFixture();
  expect(await fixture.openRegion().compareClocks(1e6)).toBeUndefined();
  expect(questionIn(fixture)).toBe(0n);
});

test('a region that is closed meanwhile is let go of at once', async () => {
  const region = new RelayFixture().openRegion();
  const asked = region.compareClocks(3_600e9);
  region.close();
  expect(await asked).toBeUndefined();
  expect(() => region.compareClocks(1)).toThrow(/closed/);
});

test('a region of a dead guest is not written to', () => {
  const region = new RelayFixture().openRegion({ readOnly: true });
  expect(() => region.compareClocks(1)).toThrow(/read-only/);
});
