// SPDX-License-Identifier: Apache-2.0

/** Looks at the cluster until what was asked of it is seen. */

import { messageOf } from '../../error.ts';
import type { Logger } from '../../log.ts';
import type { ClusterStatus } from './cluster-status.ts';
import type { ClusterCommands } from './commands.ts';
import type { FenceEvent } from './fencing.ts';

const firstPollMs = 100;
export const mostPollMs = 2_000;

const clocksDifferMs = 10_000;

/** Times in the cluster's history are exact to a second. */
export const secondOf = (ms: number): number => Math.floor(ms / 1e3);

export class Outlook {
  readonly #commands: ClusterCommands;
  readonly #log: Logger;
  readonly #closing: AbortSignal;

  constructor(commands: ClusterCommands, log: Logger, closing: AbortSignal) {
    this.#commands = commands;
    this.#log = log;
    this.#closing = closing;
  }

  poll(
    limitMs: number,
    seen: (status: ClusterStatus) => boolean,
    longestPauseMs = mostPollMs,
  ): Promise<boolean> {
    return this.until(limitMs, async () => seen(await this.#commands.status()), longestPauseMs);
  }

  /** Looks at the cluster again and again; false: it did not come to it. A look that fails is one that did not see it. */
  async until(limitMs: number, look: () => Promise<boolean>, longestPauseMs = mostPollMs): Promise<boolean> {
    const deadline = Date.now() + limitMs;
    for (let pauseMs = firstPollMs; !this.#closing.aborted; pauseMs *= 1.5) {
      const seen = await look().catch((thrown: unknown) => {
        this.#log.debug(`the cluster cannot be looked at: ${messageOf(thrown)}`);
        return false;
      });
      if (seen) return true;
      if (Date.now() > deadline) return false;
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(resolve, Math.min(pauseMs, longestPauseMs)).unref();
      await promise;
    }
    return false;
  }

  /**
   * What became of the fencing of a node since then; undefined: nothing is known of one. Where clocks of nodes differ a little, one too
   * few is better than one too many.
   */
  async fateOf(node: string, sinceMs: number): Promise<FenceEvent['status'] | undefined> {
    const events = await this.#commands.fenceHistory(node);
    const since = events.filter(
      ({ completedMs = Number.POSITIVE_INFINITY }) => completedMs >= sinceMs - clocksDifferMs,
    );
    return since.find(({ status }) => status === 'success')?.status ?? since[0]?.status;
  }
}
