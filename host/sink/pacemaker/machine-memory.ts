// SPDX-License-Identifier: Apache-2.0

/**
 * The status of the cluster as it is now, and which of its resources are machines by the same configuration. The status says when and
 * by whom the configuration was changed last, to the second: what was read of it at least two seconds after that was first seen
 * holds for as long as the status says the same, and needs no second command while somebody waits.
 */

import type { ClusterStatus } from './cluster-status.ts';
import type { MachineResource } from './machine-resources.ts';

export interface ClusterView {
  readonly status: ClusterStatus;
  readonly machines: readonly MachineResource[];
}

export interface MemoryParts {
  readonly status: () => Promise<ClusterStatus>;
  readonly machines: () => Promise<readonly MachineResource[]>;
  /** Milliseconds of a clock that is never set. */
  readonly now?: () => number;
}

/** More than a second, with what clocks of nodes differ by. */
const settledMs = 2_000;
const lookAgainMs = 2_500;

interface Known {
  readonly change: string | undefined;
  readonly machines: readonly MachineResource[];
  readonly firstSeenMs: number;
  readonly settled: boolean;
}

export class MachineMemory {
  readonly #parts: MemoryParts;
  readonly #now: () => number;
  /** Undefined: the cluster had no machines, or was not looked at. */
  #known: Known | undefined;
  #again: NodeJS.Timeout | undefined;

  constructor(parts: MemoryParts) {
    this.#parts = parts;
    this.#now = parts.now ?? (() => performance.now());
  }

  /** Throws as the commands do. */
  async look(): Promise<ClusterView> {
    const known = this.#known;
    const startedMs = this.#now();
    const expected = known !== undefined && !known.settled;
    const [status, early] = await Promise.all([
      this.#parts.status(),
      expected ? this.#parts.machines() : undefined,
    ]);
    if (!status.resources.some(({ agent }) => agent.endsWith(':VirtualDomain'))) {
      this.#known = undefined;
      return { status, machines: [] };
    }
    if (known?.settled === true && known.change === status.change)
      return { status, machines: known.machines };
    const machines = early ?? (await this.#parts.machines());
    this.#learn(status.change, machines, startedMs);
    return { status, machines };
  }

  close(): void {
    clearTimeout(this.#again);
  }

  #learn(change: string | undefined, machines: readonly MachineResource[], startedMs: number): void {
    const known = this.#known;
    const same = known !== undefined && change !== undefined && known.change === change;
    const firstSeenMs = same ? known.firstSeenMs : this.#now();
    const settled = same && startedMs - firstSeenMs >= settledMs;
    this.#known = { change, machines, firstSeenMs, settled };
    if (settled || change === undefined) return;
    clearTimeout(this.#again);
    // One that fails is made up for when there is something to be done.
    this.#again = setTimeout(() => void this.look().catch(() => undefined), lookAgainMs);
    this.#again.unref();
  }
}
