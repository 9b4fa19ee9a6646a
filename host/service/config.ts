// SPDX-License-Identifier: Apache-2.0

/** Where a service keeps and offers its things, and how large a relay it gives a guest. */

import { join } from 'node:path';
import type { RelayBackend } from '../guest/relay-backend.ts';
import type { CommandOptions } from '../sink/pacemaker/commands.ts';
import type { PacemakerSettings } from '../sink/pacemaker/sink.ts';
import { heartbeatMs } from '../wire/region.ts';
import type { ProbeRule } from './config-file.ts';

export interface ServiceConfig {
  /** Sockets and regions; gone after a reboot. */
  readonly runDirectory: string;
  /** Wanted state, images, audit log; stays. */
  readonly stateDirectory: string;
  /** Where probe images are looked for. */
  readonly catalogueRoots: readonly string[];
  /** Of a guest's region, in bytes; a power of two. Undefined: by its CPUs. */
  readonly regionBytes: number | undefined;
  /** The only one that is used; otherwise the best that a guest can do. */
  readonly relayBackend?: RelayBackend | undefined;
  readonly heartbeatMs: number;
  /** Of the API's socket. Default: the group of the service, 0660. */
  readonly api?: { readonly group?: string | undefined; readonly mode?: number | undefined };
  /** Which probes are wanted on which guests, beside what is attached. */
  readonly probes?: readonly ProbeRule[];
  /** Undefined: the host is in no cluster that is to hear of anything. */
  readonly pacemaker?: PacemakerConfig | undefined;
}

export interface PacemakerConfig {
  readonly settings: PacemakerSettings;
  readonly commands: CommandOptions;
}

/** As often as the guest writes one: at each beat there is a new one to be seen. */
export const defaultHeartbeatMs = heartbeatMs;

export const apiSocketPath = (runDirectory: string): string => join(runDirectory, 'vesper.sock');

/** `VESPER_RUN_DIR` and `VESPER_STATE_DIR` replace the system's places. */
export function defaultRunDirectory(): string {
  return process.env['VESPER_RUN_DIR'] ?? '/run/vesper';
}

export function defaultStateDirectory(): string {
  return process.env['VESPER_STATE_DIR'] ?? '/var/lib/vesper';
}
