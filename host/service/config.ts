// SPDX-License-Identifier: Apache-2.0

/** Where a service keeps and offers its things, and how large a relay it gives a guest. */

import { join } from 'node:path';
import type { RelayBackend } from '../guest/relay-backend.ts';

export interface ServiceConfig {
  /** Sockets and regions; gone after a reboot. */
  readonly runDirectory: string;
  /** Wanted state, images, audit log; stays. */
  readonly stateDirectory: string;
  /** Where probe images are looked for. */
  readonly catalogueRoots: readonly string[];
  /** Of a guest's region, in bytes; a power of two. */
  readonly regionBytes: number;
  /** The only one that is used; otherwise the best that a guest can do. */
  readonly relayBackend?: RelayBackend | undefined;
  readonly heartbeatMs: number;
}

export const defaultRegionBytes = 1 << 20;
export const defaultHeartbeatMs = 1_000;

export const apiSocketPath = (runDirectory: string): string => join(runDirectory, 'vesper.sock');

/** `VESPER_RUN_DIR` and `VESPER_STATE_DIR` replace the system's places. */
export function defaultRunDirectory(): string {
  return process.env['VESPER_RUN_DIR'] ?? '/run/vesper';
}

export function defaultStateDirectory(): string {
  return process.env['VESPER_STATE_DIR'] ?? '/var/lib/vesper';
}
