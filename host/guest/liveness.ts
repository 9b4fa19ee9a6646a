// SPDX-License-Identifier: Apache-2.0

/**
 * Whether a guest lives. Its heartbeat in the region shows it without waking anybody; it is asked, by a ping, where that is not to be
 * seen, where its clock is needed or in doubt, and when it is its turn: that its channel works shows only so.
 */

import { messageOf, VesperError } from '../error.ts';
import { heartbeatMs } from '../wire/region.ts';
import type { ClockAlignment, ClockSample } from './clock.ts';
import type { ControlLink } from './control-link.ts';

/** Questions without an answer after which the guest counts as silent, and after which nothing it was asked is waited for any more. */
export const silentAfter = 3;
const giveUpAfter = 10;
/** One that is due and not late: guest and host count their seconds each by its own clock. */
const oldestBeatNs = heartbeatMs * 1.5e6;
/** ENOTCONN: the frontend has no session. */
const notConnected = -107;
/** Error of host times that is good enough, in ns. */
const exactNs = 20e3;
/** On a busy machine host and guest may miss each other. */
const attempts = 3;

export interface LivenessOptions {
  readonly link: ControlLink;
  /** Each answer aligns it. */
  readonly clock: ClockAlignment;
  /** A sample that is more exact than a ping's, where one can be had; undefined: none came. */
  readonly compareClocks: () => Promise<ClockSample | undefined>;
  /** Between two looks, and how long an answer may take. */
  readonly periodMs: number;
  /** The guest's heartbeat as it stands in the region. */
  readonly heartbeatNs: () => number;
  /** Too many questions were not answered. */
  readonly onSilent: (why: string) => void;
  /** A guest that was silent answered. */
  readonly onAnswer: () => void;
  /** The frontend says that it has no session with us. */
  readonly onDisowned: () => void;
}

export class Liveness {
  readonly #options: LivenessOptions;
  /** Records came since the last look. */
  #flowed = false;
  /** Questions that are not answered yet, and those in a row that never were. */
  #asking = 0;
  #missed = 0;
  #stopped = false;

  constructor(options: LivenessOptions) {
    this.#options = options;
  }

  /** Records came: the guest lives, and the times of what follows depend on its clock. */
  flowed(): void {
    this.#flowed = true;
  }

  /** Look at the guest, and ask it where that is called for. */
  check(ask: boolean): void {
    const beats = this.#beats();
    const flowed = this.#flowed;
    this.#flowed = false;
    const unanswered = this.#asking > 0 || this.#missed > 0;
    const { settled } = this.#options.clock;
    if (ask || flowed || unanswered || !beats || !settled) void this.#ask(flowed || !settled);
  }

  /** Whether the guest's last heartbeat was a time it can have been just now. */
  #beats(): boolean {
    const { heartbeatNs, clock } = this.#options;
    const beatNs = heartbeatNs();
    const nowNs = Number(process.hrtime.bigint());
    return beatNs !== 0 && !clock.contradicts(beatNs, nowNs - oldestBeatNs, nowNs);
  }

  /** One question and its answer. Throws TIMEOUT, or what ended the channel. */
  async ping(timeLimitMs: number): Promise<void> {
    const { link, clock } = this.#options;
    const sentNs = process.hrtime.bigint();
    const { payload } = await link.request('ping', { host_time_ns: sentNs }, 'pong', { timeLimitMs });
    clock.add({
      sentNs,
      guestReceivedNs: payload.guest_received_ns,
      guestSentNs: payload.guest_sent_ns,
      receivedNs: process.hrtime.bigint(),
    });
  }

  /** Aligns the clocks better than a ping does, where that is possible and called for. */
  async align(): Promise<void> {
    const { clock, compareClocks } = this.#options;
    if (clock.boundNs(Number(process.hrtime.bigint())) <= exactNs) return;
    for (let attempt = 0; attempt < attempts && !this.#stopped; attempt += 1) {
      const sample = await compareClocks();
      if (sample === undefined) continue;
      clock.add(sample);
      return;
    }
  }

  /** What is not answered yet means nothing any more. */
  stop(): void {
    this.#stopped = true;
  }

  async #ask(align: boolean): Promise<void> {
    const { link, periodMs, onSilent, onAnswer, onDisowned } = this.#options;
    this.#asking += 1;
    try {
      await this.ping(periodMs);
      if (this.#missed >= silentAfter) onAnswer();
      this.#missed = 0;
      if (align) await this.align();
    } catch (thrown) {
      if (this.#stopped) return;
      if (thrown instanceof VesperError && thrown.data['errno'] === notConnected) {
        onDisowned();
        return;
      }
      this.#missed += 1;
      if (this.#missed === silentAfter) onSilent(messageOf(thrown));
      // The channel of a frontend that lives answers whatever else it does: also while a module is being loaded.
      if (this.#missed === giveUpAfter) link.giveUp(`${giveUpAfter} heartbeats without an answer`);
    } finally {
      this.#asking -= 1;
    }
  }
}
