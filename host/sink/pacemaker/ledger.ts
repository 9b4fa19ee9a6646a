// SPDX-License-Identifier: Apache-2.0

/**
 * What the cluster is still owed, and what was done lately, in one small file: a service that is killed in the middle of an incident is
 * followed by one that goes on with it and does not begin it again.
 */

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import { messageOf, VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import { type Incident, incidentShape, keyOf } from './incident.ts';

const ledgerFile = z.object({
  version: z.literal(1),
  owed: z.array(incidentShape),
  /** When the last call about a resource was begun, by its name. */
  acted: z.record(z.string(), z.number()),
  /** Of incidents that are over, by their key: times of the last event. */
  settled: z.record(z.string(), z.object({ lastMs: z.number(), lastNs: z.number() })),
});

/** A record that was read before a restart may be read again after it: that long its incident is known. */
const settledKeptMs = 600_000;
const mostSettled = 1_024;

export class Ledger {
  readonly #path: string;
  readonly #log: Logger;
  readonly #owed = new Map<string, Incident>();
  readonly #acted: Map<string, number>;
  #closed = false;
  readonly #settled: Map<string, { readonly lastMs: number; readonly lastNs: number }>;

  /** Throws HOST where the file is there and cannot be used: what is owed is never dropped silently. */
  constructor(path: string, log: Logger) {
    this.#path = path;
    this.#log = log;
    const { owed, acted, settled } = load(path);
    for (const incident of owed) this.#owed.set(keyOf(incident), incident);
    this.#acted = new Map(Object.entries(acted));
    this.#settled = new Map(Object.entries(settled));
  }

  get owed(): ReadonlyMap<string, Incident> {
    return this.#owed;
  }

  open(incident: Incident): void {
    this.#owed.set(keyOf(incident), incident);
    this.save();
  }

  settle(incident: Incident): void {
    const key = keyOf(incident);
    this.#owed.delete(key);
    this.#settled.delete(key);
    this.#settled.set(key, { lastMs: incident.lastMs, lastNs: incident.lastNs });
    const oldest = Date.now() - settledKeptMs;
    for (const [other, { lastMs }] of this.#settled)
      if (lastMs < oldest || this.#settled.size > mostSettled) this.#settled.delete(other);
    this.save();
  }

  /** Whether an event belongs to an incident with that key that is over. */
  knows(key: string, timeNs: number): boolean {
    return timeNs > 0 && timeNs <= (this.#settled.get(key)?.lastNs ?? -1);
  }

  actedAt(resource: string): number | undefined {
    return this.#acted.get(resource);
  }

  acted(resource: string, nowMs: number): void {
    this.#acted.set(resource, nowMs);
  }

  /** Another service may have the file from now on. */
  close(): void {
    this.save();
    this.#closed = true;
  }

  /** Small, and at once: an event is the sink's from the moment it was delivered. It need not survive a crash of the host. */
  save(): void {
    if (this.#closed) return;
    const file: z.infer<typeof ledgerFile> = {
      version: 1,
      owed: [...this.#owed.values()],
      acted: Object.fromEntries(this.#acted),
      settled: Object.fromEntries(this.#settled),
    };
    try {
      mkdirSync(dirname(this.#path), { recursive: true, mode: 0o750 });
      writeFileSync(`${this.#path}.new`, JSON.stringify(file), { mode: 0o640 });
      renameSync(`${this.#path}.new`, this.#path);
    } catch (thrown) {
      this.#log.error(
        `cannot write ${this.#path}: ${messageOf(thrown)}: a service that is killed now forgets what the cluster is owed`,
      );
    }
  }
}

function load(path: string): z.infer<typeof ledgerFile> {
  try {
    return ledgerFile.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT')
      return { version: 1, owed: [], acted: {}, settled: {} };
    throw new VesperError(
      'HOST',
      `${path} is not what this service writes (${messageOf(thrown)}): move it away; what the cluster was owed is in it`,
      { cause: thrown },
    );
  }
}
