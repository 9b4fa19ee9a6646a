// SPDX-License-Identifier: Apache-2.0

/** What the service gives to each of its guests. */

import type { EventBatch } from '../guest/event-batch.ts';
import type { Heartbeat } from '../guest/heartbeat.ts';
import type { Logger } from '../log.ts';
import type { RelayFactory } from '../relay/relay.ts';
import type { AuditLog } from './audit.ts';
import type { ServiceConfig } from './config.ts';
import type { ProbeImages } from './images.ts';
import type { SessionMemory } from './session-memory.ts';
import type { WantedState } from './wanted.ts';

export interface GuestServices {
  readonly config: ServiceConfig;
  readonly relays: RelayFactory;
  readonly heartbeat: Heartbeat;
  readonly images: ProbeImages;
  readonly wanted: WantedState;
  readonly memory: SessionMemory;
  readonly audit: AuditLog;
  readonly log: Logger;
  readonly publish: (batch: EventBatch) => void;
}

export interface AttachOptions {
  /** Who asked, for the audit log. */
  readonly by: string;
  /** Let each probe prove that its handlers run. */
  readonly selfTest: boolean;
  /** Push although the check says that it will not load. */
  readonly force: boolean;
}
