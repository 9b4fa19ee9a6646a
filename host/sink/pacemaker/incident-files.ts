// SPDX-License-Identifier: Apache-2.0

/**
 * A file for each incident, which outlives it: what happened, what was done, and the last events of the guest before. They are bounded
 * in number, for each guest and in all, and in size: a guest may have as many incidents as it likes.
 */

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { messageOf, VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import type { Incident } from './incident.ts';

/** An event as the API has it. */
export type EventDocument = Readonly<Record<string, unknown>>;

const shape = z.object({
  id: z.string(),
  guest: z.string(),
  uuid: z.string(),
  boot_id: z.string(),
  event: z.string(),
  evidence: z.string(),
  /** `FILE:LINE`, or `default`. */
  rule: z.string(),
  action: z.string(),
  resource: z.string().nullable(),
  first_event: z.string(),
  last_event: z.string(),
  /** Events that told it. */
  count: z.number(),
  calls: z.number(),
  /** Null: it is not over. */
  outcome: z.string().nullable(),
  steps: z.array(z.object({ time: z.string(), text: z.string() })),
  /** The last of the guest when it began, oldest first. */
  events: z.array(z.record(z.string(), z.unknown())),
});
export type IncidentDocument = z.infer<typeof shape>;
export type IncidentSummary = Omit<IncidentDocument, 'events' | 'steps'>;

const mostFiles = 256;
const mostOfGuest = 32;
export const mostEvents = 64;
const mostEventBytes = 128 << 10;
const fileName = /^([0-9a-z]+)\.([0-9a-f-]{36})\.json$/;

export class IncidentFiles {
  readonly #directory: string;
  readonly #log: Logger;
  #lastId = 0;

  constructor(directory: string, log: Logger) {
    this.#directory = directory;
    this.#log = log;
  }

  /** Another one each time, greater than those before: the time, in few characters. */
  newId(): string {
    this.#lastId = Math.max(Date.now(), this.#lastId + 1);
    return this.#lastId.toString(36);
  }

  open(incident: Incident, outcome: string | null, events: readonly EventDocument[]): void {
    this.#write(documentOf(incident, outcome, newest(events)), incident.uuid);
    this.#prune(incident.uuid);
  }

  /** As it is now; the events stay those that were there when it was opened. */
  update(incident: Incident, outcome: string | null): void {
    if (incident.id === '') return;
    const before = this.#read(`${incident.id}.${incident.uuid}.json`);
    this.#write(documentOf(incident, outcome, before?.events ?? []), incident.uuid);
  }

  /** The newest first. */
  list(): readonly IncidentSummary[] {
    return this.#names()
      .reverse()
      .flatMap((name) => {
        const read = this.#read(name);
        if (read === undefined) return [];
        const { steps: _steps, events: _events, ...summary } = read;
        return [summary];
      });
  }

  /** Throws NOT_FOUND. */
  get(id: string): IncidentDocument {
    const name = this.#names().find((one) => one.startsWith(`${id}.`));
    const found = name === undefined ? undefined : this.#read(name);
    if (found !== undefined) return found;
    throw new VesperError('NOT_FOUND', `no incident ${id}: vesper incidents lists those that are kept`);
  }

  /** The oldest first. */
  #names(): string[] {
    try {
      return readdirSync(this.#directory)
        .filter((name) => fileName.test(name))
        .sort();
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw thrown;
    }
  }

  #read(name: string): IncidentDocument | undefined {
    const path = join(this.#directory, name);
    try {
      return shape.parse(JSON.parse(readFileSync(path, 'utf8')));
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== 'ENOENT')
        this.#log.warn(`${path} is not what this service writes: ${messageOf(thrown)}`);
      return undefined;
    }
  }

  #write(document: IncidentDocument, uuid: string): void {
    const path = join(this.#directory, `${document.id}.${uuid}.json`);
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o750 });
      writeFileSync(`${path}.new`, `${JSON.stringify(document)}\n`, { mode: 0o640 });
      renameSync(`${path}.new`, path);
    } catch (thrown) {
      this.#log.error(
        `cannot write ${path}: ${messageOf(thrown)}: what is known of the incident is in the log only`,
      );
    }
  }

  /** The oldest of a guest go before those of others. */
  #prune(uuid: string): void {
    try {
      const names = this.#names();
      const own = names.filter((name) => name.includes(`.${uuid}.`));
      const surplus = new Set([...own.slice(0, -mostOfGuest), ...names.slice(0, -mostFiles)]);
      for (const name of surplus) rmSync(join(this.#directory, name), { force: true });
    } catch (thrown) {
      this.#log.error(`cannot remove old incidents in ${this.#directory}: ${messageOf(thrown)}`);
    }
  }
}

const iso = (ms: number): string => new Date(ms).toISOString();

function documentOf(
  incident: Incident,
  outcome: string | null,
  events: readonly EventDocument[],
): IncidentDocument {
  const { id, guest, uuid, event, evidence, action, count, calls, steps } = incident;
  return {
    id,
    guest,
    uuid,
    boot_id: incident.bootId,
    event,
    evidence,
    rule: incident.where,
    action,
    resource: incident.called?.resource ?? incident.resource ?? null,
    first_event: iso(incident.firstMs),
    last_event: iso(incident.lastMs),
    count,
    calls,
    outcome,
    steps: steps.map(({ atMs, text }) => ({ time: iso(atMs), text })),
    events: [...events],
  };
}

/** As many of the last ones as a file may hold. */
function newest(events: readonly EventDocument[]): readonly EventDocument[] {
  let bytes = 0;
  const kept = events.slice(-mostEvents);
  const from = kept.findLastIndex((event) => {
    bytes += JSON.stringify(event).length;
    return bytes > mostEventBytes;
  });
  return kept.slice(from + 1);
}
