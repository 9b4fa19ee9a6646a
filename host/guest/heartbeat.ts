// SPDX-License-Identifier: Apache-2.0

/**
 * The one timer of all sessions: a service of which nothing is wanted wakes up once a period, however many guests it has. At each
 * beat every session looks at its guest's region; what makes the guest answer, and so wakes the service again, is rare.
 */

import { followWallClock } from './wall-clock.ts';

export interface Beating {
  /** Once a period. `ask`: the guest is to be asked, even if nothing else calls for it. Does not throw. */
  beat(ask: boolean): void;
}

/** All guests are asked at once: that wakes the service less often than one after the other. */
const beatsBetweenQuestions = 60;

export class Heartbeat {
  readonly periodMs: number;
  readonly #members = new Set<Beating>();
  #timer: NodeJS.Timeout | undefined;
  #beats = 0;

  constructor(periodMs: number) {
    this.periodMs = periodMs;
  }

  join(member: Beating): void {
    this.#members.add(member);
    this.#timer ??= setInterval(() => this.#beat(), this.periodMs);
  }

  /** Idempotent; also in the middle of a beat. */
  leave(member: Beating): void {
    this.#members.delete(member);
    if (this.#members.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #beat(): void {
    followWallClock();
    this.#beats += 1;
    const ask = this.#beats % beatsBetweenQuestions === 0;
    for (const member of this.#members) member.beat(ask);
  }
}
