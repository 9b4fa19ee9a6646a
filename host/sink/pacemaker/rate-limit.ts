// SPDX-License-Identifier: Apache-2.0

/** So many in any minute, however they are spread. */
export class RateLimit {
  readonly #perMinute: number;
  /** When the last ones were taken, oldest first. */
  readonly #taken: number[] = [];

  constructor(perMinute: number) {
    this.#perMinute = perMinute;
  }

  /** Takes one; where none is left, in how many milliseconds there is. */
  take(nowMs: number): number {
    while ((this.#taken[0] ?? Number.POSITIVE_INFINITY) <= nowMs - minuteMs) this.#taken.shift();
    const oldest = this.#taken[0];
    if (oldest !== undefined && this.#taken.length >= this.#perMinute) return oldest + minuteMs - nowMs;
    this.#taken.push(nowMs);
    return 0;
  }
}

const minuteMs = 60_000;
