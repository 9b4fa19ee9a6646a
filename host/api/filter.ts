// SPDX-License-Identifier: Apache-2.0

/** Which events a reader wants. Rows are judged on the batch; objects are made only of those that pass. */

import { VesperError } from '../error.ts';
import type { VesperEvent } from '../guest/event.ts';
import type { EventBatch } from '../guest/event-batch.ts';
import { type Severity, severityNames } from '../probe/declaration.ts';

export interface EventFilter {
  readonly guest?: string | undefined;
  readonly probe?: string | undefined;
  readonly event?: string | undefined;
  readonly minSeverity?: string | undefined;
  /** Conditions on fields: `signal=SIGKILL and victim_pid>100`. */
  readonly where?: string | undefined;
}

type Condition = (event: VesperEvent) => boolean;

const conditionPattern = /^([a-z_][a-z0-9_]*)\s*(!=|>=|<=|=|>|<|~)\s*(.+)$/i;

/** Throws USAGE where the filter cannot be understood. */
export class EventMatcher {
  readonly #filter: EventFilter;
  readonly #rank: number;
  readonly #conditions: readonly Condition[];

  constructor(filter: EventFilter) {
    this.#filter = filter;
    this.#rank = rankOf(filter.minSeverity);
    this.#conditions = parseConditions(filter.where);
  }

  /** The events of a batch that pass, as objects, in the order of guest time, and their places in that order of the whole batch. */
  *of(batch: EventBatch): Generator<{ readonly event: VesperEvent; readonly place: number }> {
    const { guest, probe, event } = this.#filter;
    if (guest !== undefined && guest !== batch.incarnation.guest && guest !== batch.incarnation.uuid) return;
    const rows = batch.rowsInTime();
    for (let place = 0; place < rows.length; place += 1) {
      const row = rows[place] as number;
      if (probe !== undefined && batch.probeName(row) !== probe) continue;
      const declaration = batch.declaration(row);
      if (event !== undefined && declaration?.name !== event) continue;
      if (severityNames.indexOf(declaration?.severity ?? 'info') < this.#rank) continue;
      const found = batch.toEvent(row);
      if (this.#conditions.every((holds) => holds(found))) yield { event: found, place };
    }
  }
}

function rankOf(minSeverity: string | undefined): number {
  if (minSeverity === undefined) return 0;
  const rank = severityNames.indexOf(minSeverity as Severity);
  if (rank < 0)
    throw new VesperError('USAGE', `unknown severity ${minSeverity}: use one of ${severityNames.join(', ')}`);
  return rank;
}

function parseConditions(where: string | undefined): readonly Condition[] {
  return where === undefined ? [] : where.split(/\s+and\s+/i).map((part) => parseCondition(part.trim()));
}

function parseCondition(part: string): Condition {
  const [, name = '', operator = '', literal = ''] = conditionPattern.exec(part) ?? [];
  const wanted = literal.trim().replace(/^(['"])(.*)\1$/, '$2');
  if (name === '' || wanted === '') {
    throw new VesperError(
      'USAGE',
      `cannot understand the condition "${part}": write field=value, with = != < <= > >= or ~ (contains), joined by and`,
    );
  }
  const number = Number(wanted);
  return (event) => {
    const value = event.fields[name];
    if (value === undefined) return false;
    switch (operator) {
      case '=':
        return String(value) === wanted;
      case '!=':
        return String(value) !== wanted;
      case '~':
        return String(value).includes(wanted);
      case '<':
        return Number(value) < number;
      case '<=':
        return Number(value) <= number;
      case '>':
        return Number(value) > number;
      default:
        return Number(value) >= number;
    }
  };
}
