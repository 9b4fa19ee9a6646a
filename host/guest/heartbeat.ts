// SPDX-License-Identifier: Apache-2.0

/**
 * The one timer of all sessions: a service of which nothing is wanted wakes up once a period, however many guests it has. At each
 * beat every session looks at its guest's region; what makes the guest answer, and so wakes the service again, takes turns.
 */

import { followWallClock } from './wall-clock.ts';

export interface Beating {
  /** Once a period. `turn`: the guest is to be asked, even if nothing else calls for it. Does not throw. */
  beat(turn: boolean): void;
}

/** One guest has its turn every so many beats … */
const beatsBetweenTurns = 10;
/** … and where there are more guests than this, several at once, so that none waits longer than a minute. */
const mostTurnsToWait = 6;
const nobody: ReadonlySet<Beating> = new Set();

export class Heartbeat {
  readonly periodMs: number;
  /** In the order of their turns. */
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
    const turns = this.#beats % beatsBetweenTurns === 0 ? this.#nextTurns() : nobody;
    for (const member of this.#members) member.beat(turns.has(member));
  }

  #nextTurns(): ReadonlySet<Beating> {
    const turns = new Set([...this.#members].slice(0, Math.ceil(this.#members.size / mostTurnsToWait)));
    for (const member of turns) {
      this.#members.delete(member);
      this.#members.add(member);
    }
    return turns;
  }
}
