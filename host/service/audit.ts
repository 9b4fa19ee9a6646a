// SPDX-License-Identifier: Apache-2.0

/** Who pushed which image into which guest, when, with which result: one JSON line each, only ever appended. */

import { appendFileSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { messageOf } from '../error.ts';
import type { Logger } from '../log.ts';

export interface AuditEntry {
  readonly action: 'load' | 'unload';
  readonly guest: string;
  readonly uuid: string;
  readonly probe: string;
  readonly sha256: string;
  readonly args: string;
  /** Who asked: `alice (uid 1000, pid 4242)`, the peer of the API's socket; `reconcile`: the service, to make true what is wanted. */
  readonly by: string;
  readonly result: string;
}

export class AuditLog {
  readonly #path: string;
  readonly #log: Logger;
  readonly #told: (entry: AuditEntry) => void;
  /** Entries that could not be written; they went to the service log instead. */
  failed = 0;

  /** `told` is called with each entry, also with one that cannot be written. */
  constructor(path: string, log: Logger, told: (entry: AuditEntry) => void = () => undefined) {
    this.#path = path;
    this.#log = log;
    this.#told = told;
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
  }

  append(entry: AuditEntry): void {
    this.#told(entry);
    const line = JSON.stringify({ time: new Date().toISOString(), ...entry });
    try {
      appendFileSync(this.#path, `${line}\n`, { mode: 0o640 });
    } catch (thrown) {
      this.failed += 1;
      this.#log.error({ audit: entry, path: this.#path }, `cannot write the audit log: ${messageOf(thrown)}`);
    }
  }
}
