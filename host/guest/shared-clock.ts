// SPDX-License-Identifier: Apache-2.0

/**
 * Compares the clocks of host and guest through the region they share. Nothing sleeps between question and answer, so that it is exact
 * to microseconds, where a ping waits for an idle guest to wake up, and cannot tell that from a difference of the clocks.
 */

import { VesperError } from '../error.ts';
import type { RelayReader } from '../relay/relay.ts';
import { features, limits } from '../wire/message.ts';
import type { ClockSample } from './clock.ts';
import type { ControlLink } from './control-link.ts';

/** For the guest to begin to look. */
const firstAnswerLimitNs = 25e6;

export interface SharedClockOptions {
  readonly link: ControlLink;
  /** Undefined where no memory is shared. */
  readonly relay: RelayReader | undefined;
  readonly epoch: bigint;
  /** As the frontend's hello says. */
  readonly features: bigint;
  /** How long the guest may take to say that it has stopped looking. */
  readonly timeLimitMs: number;
}

/** Undefined: the frontend cannot, or did not answer. Pings go on aligning the clocks then, and show whether it is silent. */
export async function compareClocks(options: SharedClockOptions): Promise<ClockSample | undefined> {
  const { link, relay, epoch, timeLimitMs } = options;
  if (relay === undefined || (options.features & BigInt(features.COMPARE_CLOCKS.value)) === 0n)
    return undefined;
  const watch = { epoch, watch_us: limits.CLOCK_WATCH_MAX.value };
  const told = link.request('compare_clocks', watch, 'clocks_compared', { timeLimitMs });
  const [answer, outcome] = await Promise.allSettled([relay.compareClocks(firstAnswerLimitNs), told]);
  if (outcome.status === 'rejected' && !(outcome.reason instanceof VesperError)) throw outcome.reason;
  if (answer.status === 'rejected') throw answer.reason;
  if (answer.value === undefined) return undefined;
  const { askedNs, guestNs, answeredNs } = answer.value;
  return { sentNs: askedNs, guestReceivedNs: guestNs, guestSentNs: guestNs, receivedNs: answeredNs };
}
