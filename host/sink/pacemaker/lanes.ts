// SPDX-License-Identifier: Apache-2.0

/** Work that waits for its time, in lanes: of each lane one piece is under way at a time, and lanes do not wait for each other. */

interface Waiting<T> {
  readonly work: T;
  dueMs: number;
}

interface Lane<T> {
  readonly waiting: Set<Waiting<T>>;
  busy: boolean;
  timer: NodeJS.Timeout | undefined;
}

/** Timers of Node count in 31 bits. */
const longestTimerMs = 2 ** 31 - 1;

export class Lanes<T> {
  /** Does one step of the work; resolves to when there is another, in milliseconds from then, or undefined. Never rejects. */
  readonly #step: (work: T) => Promise<number | undefined>;
  readonly #lanes = new Map<string, Lane<T>>();
  #closed = false;

  constructor(step: (work: T) => Promise<number | undefined>) {
    this.#step = step;
  }

  add(name: string, work: T, afterMs: number): void {
    const lane = this.#lanes.get(name) ?? { waiting: new Set(), busy: false, timer: undefined };
    this.#lanes.set(name, lane);
    lane.waiting.add({ work, dueMs: Date.now() + afterMs });
    this.#turn(name, lane);
  }

  /** What waits there is due now. */
  hurry(name: string): void {
    const lane = this.#lanes.get(name);
    if (lane === undefined) return;
    for (const one of lane.waiting) one.dueMs = Math.min(one.dueMs, Date.now());
    this.#turn(name, lane);
  }

  close(): void {
    this.#closed = true;
    for (const { timer } of this.#lanes.values()) clearTimeout(timer);
    this.#lanes.clear();
  }

  #turn(name: string, lane: Lane<T>): void {
    if (lane.busy || this.#closed) return;
    clearTimeout(lane.timer);
    let first: Waiting<T> | undefined;
    for (const one of lane.waiting) if (first === undefined || one.dueMs < first.dueMs) first = one;
    if (first === undefined) {
      this.#lanes.delete(name);
      return;
    }
    const waitMs = first.dueMs - Date.now();
    if (waitMs > 0) {
      lane.timer = setTimeout(() => this.#turn(name, lane), Math.min(waitMs, longestTimerMs));
      return;
    }
    lane.busy = true;
    lane.waiting.delete(first);
    const { work } = first;
    void this.#step(work).then((afterMs) => {
      lane.busy = false;
      if (afterMs !== undefined) lane.waiting.add({ work, dueMs: Date.now() + afterMs });
      this.#turn(name, lane);
    });
  }
}
