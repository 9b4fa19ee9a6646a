// SPDX-License-Identifier: Apache-2.0

/** Something that happened in a guest and that the cluster has to hear of, however many events told it. */

import { z } from 'zod';
import { actions } from './rules.ts';

export const historyMark = z.object({
  lastCall: z.number(),
  failCount: z.number(),
  lastFailure: z.string(),
});

/** What was done about it, and what came of that, in sentences. */
const step = z.object({ atMs: z.number(), text: z.string() });

export const incidentShape = z.object({
  /** Short, for people; later ones are greater. Empty: of a service that gave none. */
  id: z.string().default(''),
  guest: z.string(),
  uuid: z.string(),
  /** Empty where the service had no session with the guest yet. */
  bootId: z.string(),
  action: z.enum(actions),
  /** Undefined: the resource that is the guest. */
  resource: z.string().optional(),
  /** Word or PROBE.EVENT, as the rule has it. */
  event: z.string(),
  /** What was seen, in the words of the first event; of the guest's choosing, but printable. */
  evidence: z.string(),
  /** `FILE:LINE` of the rule. */
  where: z.string(),
  /** Host times of the first and the last event, in milliseconds since 1970. */
  firstMs: z.number(),
  lastMs: z.number(),
  /** Guest time of the last event; 0 where it has none, the largest where no other can follow. */
  lastNs: z.number(),
  /** Events that told it. */
  count: z.number(),
  /** Calls of the cluster that were begun. */
  calls: z.number(),
  /** Where and over which history the last call was begun: what looks otherwise now shows that the cluster acted. */
  called: z
    .object({
      resource: z.string(),
      node: z.string(),
      mark: historyMark,
      atMs: z.number(),
      /** Node that was to be fenced. */
      fence: z.string().optional(),
    })
    .optional(),
  steps: z.array(step).default([]),
});

export type Incident = z.infer<typeof incidentShape>;

/** Events that have the same key while the incident is open are the same incident. */
export const keyOf = ({
  uuid,
  bootId,
  action,
  resource,
}: Pick<Incident, 'uuid' | 'bootId' | 'action' | 'resource'>): string =>
  [uuid, bootId, action, resource ?? ''].join('\0');

const mostSteps = 24;

/** The first ones and the last ones are kept; one that says what the last one said is none. */
export function addStep({ steps }: Incident, text: string): void {
  if (steps.at(-1)?.text === text) return;
  if (steps.length >= mostSteps) steps.splice(mostSteps / 2, 1);
  steps.push({ atMs: Date.now(), text });
}

const longestEvidence = 160;

/** For an attribute of the cluster, which operators read: what happened, and what came of it. */
export function explanation(incident: Incident, outcome: string): string {
  const { id, guest, event, evidence, count, firstMs } = incident;
  const more = count > 1 ? ` (${count} events)` : '';
  const seen = evidence.slice(0, longestEvidence);
  const where = id === '' ? '' : `; vesper incidents ${id}`;
  return printable(
    `${new Date(firstMs).toISOString()} ${guest}: ${event}: ${seen}${more}; ${outcome}${where}`,
  );
}

/** What may stand in an attribute: a guest names its processes as it likes. */
export const printable = (text: string): string => text.replaceAll(/[^\x20-\x7e]|[<>&"'`$\\]/g, '?');

/** Of an attribute that explains what happened to a resource. */
export const attributeName = (resource: string): string => `vesper-${resource}`;
