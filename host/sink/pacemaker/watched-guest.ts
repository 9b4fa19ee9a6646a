// SPDX-License-Identifier: Apache-2.0

/** What the sink knows of one guest, and what it reads of its events. */

import { messageOf } from '../../error.ts';
import type { RelayBatch } from '../../relay/batch.ts';
import type { EventDecoder } from '../../relay/decoder.ts';
import { printable } from './incident.ts';
import { GuestRules, type Meaning } from './rules.ts';

/** What the sink reads of a batch of one guest's events. */
export interface WatchedBatch {
  readonly incarnation: { readonly guest: string; readonly uuid: string; readonly bootId: string };
  readonly length: number;
  readonly columns: RelayBatch;
  probeName(row: number): string;
  /** Undefined where nobody can decode the row. */
  decoder(row: number): EventDecoder | undefined;
  hostTimeMs(row: number): number;
}

export class WatchedGuest {
  readonly uuid: string;
  name: string;
  rules = new GuestRules([], () => undefined);
  bootId = '';
  /** The last boot that is over, and why. */
  over: { readonly bootId: string; readonly reason: string } | undefined;
  paused = false;
  dumping = false;
  /** When each kind of sign was last seen, and what it means where a rule is about it. */
  readonly signs = new Map<string, { readonly atMs: number; readonly open?: (() => void) | undefined }>();
  /** Processes of this boot, by their pid files; those that died are none any more. */
  readonly pids = new Map<string, number>();
  readonly deadPids = new Map<string, number>();
  /** Of incidents of this boot. */
  readonly keys = new Map<Meaning, string>();

  constructor(uuid: string, name: string) {
    this.uuid = uuid;
    this.name = name;
  }
}

const evidenceFields = 7;

/** What an event says, in a line. */
export function evidenceOf(batch: WatchedBatch, row: number): string {
  const decoder = batch.decoder(row);
  if (decoder === undefined) return '';
  const name = `${batch.probeName(row)}.${decoder.declaration.name}`;
  try {
    const rank = (role: string): number => ['comm', 'label', 'pid', 'detail'].indexOf(role);
    const fields = decoder.fields
      .filter(({ declaration }) => rank(declaration.role) >= 0)
      .sort((a, b) => rank(a.declaration.role) - rank(b.declaration.role))
      .slice(0, evidenceFields)
      .map((field) => `${field.declaration.name}=${String(field.show(batch.columns, row))}`);
    return printable([name, ...fields].join(' '));
  } catch (thrown) {
    return `${name} (${messageOf(thrown)})`;
  }
}
