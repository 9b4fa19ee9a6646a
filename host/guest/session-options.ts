// SPDX-License-Identifier: Apache-2.0

/** What a session is given, what it tells, and what is remembered of it. */

import type { Logger } from '../log.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import type { Machine } from '../provider/provider.ts';
import type { RelayFactory } from '../relay/relay.ts';
import type { EventBatch } from './event-batch.ts';
import type { Heartbeat } from './heartbeat.ts';
import type { RelayBackend } from './relay-backend.ts';

/** What is remembered of a session, so that a later service knows what is loaded in the guest. */
export interface Remembered {
  readonly bootId: string;
  /** Decimal. */
  readonly epoch: string;
  readonly probes: readonly {
    readonly slot: number;
    readonly name: string;
    readonly sha256: string;
    readonly args: string;
  }[];
}

export interface SessionEvents {
  batch(batch: EventBatch): void;
  /** The guest no longer answers heartbeats (`silent`), or answers again. */
  health(silent: boolean): void;
  /** A ring was found broken; the session goes on with the others. */
  quarantined(): void;
  /** Once; the relay was read to its end, its last records delivered. */
  ended(reason: string): void;
  remember(state: Remembered): void;
}

export interface SessionOptions {
  readonly machine: Machine;
  /** Of the region; undefined: by the guest's CPUs. */
  readonly regionBytes: number | undefined;
  readonly heartbeat: Heartbeat;
  /** Undefined: the best that can be had. */
  readonly backend: RelayBackend | undefined;
  readonly relays: RelayFactory;
  readonly imageOf: (sha256: string) => ProbeImage | undefined;
  readonly remembered: Remembered | undefined;
  readonly log: Logger;
  readonly events: SessionEvents;
  /** Gives up the opening of a session. */
  readonly signal: AbortSignal;
}
