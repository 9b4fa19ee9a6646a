// SPDX-License-Identifier: Apache-2.0

/**
 * CLOCK_MONOTONIC to wall time with the resolution of the former. Follows steps of the wall clock: `performance.timeOrigin` does
 * not, `Date.now()` has whole milliseconds only.
 */

const stepMs = 2;

let anchorMonotonicNs = Number(process.hrtime.bigint());
let anchorWallMs = performance.timeOrigin + performance.now();

/** Milliseconds since 1970, with a fraction, of a CLOCK_MONOTONIC time in ns. */
export function wallMsOf(monotonicNs: number): number {
  return anchorWallMs + (monotonicNs - anchorMonotonicNs) / 1e6;
}

/** Call now and then: takes a new anchor where the wall clock was set. */
export function followWallClock(): void {
  const nowNs = Number(process.hrtime.bigint());
  const wallMs = Date.now();
  if (Math.abs(wallMs - wallMsOf(nowNs)) > stepMs) {
    anchorMonotonicNs = nowNs;
    anchorWallMs = wallMs;
  }
}

/** `2026-11-21T02:13:11.123456Z`: ISO 8601 in UTC with microseconds. */
export function isoMicroseconds(wallMs: number): string {
  const whole = Math.floor(wallMs);
  const micro = Math.floor((wallMs - whole) * 1000);
  return `${new Date(whole).toISOString().slice(0, -1)}${String(micro).padStart(3, '0')}Z`;
}
