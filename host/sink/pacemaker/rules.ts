// SPDX-License-Identifier: Apache-2.0

/** What events of a guest mean for the cluster: rules, and the ones that hold where nobody wrote any. */

import type { PayloadRows } from '../../relay/batch.ts';
import type { EventDecoder } from '../../relay/decoder.ts';
import {
  cgroupTest,
  crashTest,
  fieldTest,
  pidTest,
  processTest,
  type RowTest,
  unitTest,
} from './row-test.ts';

export const actions = ['fail', 'fence', 'attribute', 'record'] as const;
/**
 * `fail`: the resource is failed on its node, so that Pacemaker recovers it. `fence`: the node that the guest is is fenced. `attribute`: an attribute of that node is set, and what
 * follows is for the cluster's constraints to say. `record`: it is counted and logged.
 */
export type Action = (typeof actions)[number];

/** Words for what several probes, or none, may tell; any other event is called PROBE.EVENT. */
export const eventWords = ['crash', 'oom', 'panic', 'silence'] as const;
export type EventWord = (typeof eventWords)[number];

export interface Rule {
  /** Pattern of names or UUIDs. */
  readonly guest: string;
  /** Words, or PROBE.EVENT. */
  readonly events: readonly string[];
  /** Pattern of the name (comm) of the process that the event is about. */
  readonly process?: string | undefined;
  /** Pattern of its cgroup, whole or only the last part of it. */
  readonly cgroup?: string | undefined;
  /** Pattern of the unit of systemd that it belongs to. */
  readonly unit?: string | undefined;
  /** File of the guest with the number of the process. */
  readonly pidFile?: string | undefined;
  /** Further fields, by what they show. */
  readonly fields: Readonly<Record<string, string>>;
  /** Undefined: the resource that is the guest. */
  readonly resource?: string | undefined;
  readonly action: Action;
  /** Nothing is done before a sign of another kind confirms it. */
  readonly secondSign: boolean;
  /** `FILE:LINE`, for people. */
  readonly where: string;
}

const usual = (event: EventWord, action: Action, secondSign = false): Rule => ({
  guest: '*',
  events: [event],
  fields: {},
  action,
  secondSign,
  where: 'default',
});

/** A panic: the guest's resource now. An OOM kill: recorded. Silence: the guest's resource, once another sign confirms it. */
export const usualRules: readonly Rule[] = [
  usual('panic', 'fail'),
  usual('oom', 'record'),
  usual('silence', 'fail', true),
];

/** What a row means. */
export interface Meaning {
  readonly rule: Rule;
  /** Word or PROBE.EVENT by which the rule took it. */
  readonly event: string;
}

interface Tested extends Meaning {
  readonly tests: readonly RowTest[];
}

const probeEventOf: Readonly<Record<string, string>> = {
  crash: 'signal.died',
  oom: 'oom.kill',
  panic: 'frontend.panic',
};

/** The process whose number stands in a file of the guest; undefined: not known. */
export type PidOf = (pidFile: string) => number | undefined;

/** The rules that hold for one guest; of several that match, the last one counts. */
export class GuestRules {
  readonly #rules: readonly Rule[];
  readonly #pidOf: PidOf;
  readonly #tested = new WeakMap<EventDecoder, readonly Tested[]>();

  constructor(rules: readonly Rule[], pidOf: PidOf) {
    this.#rules = rules;
    this.#pidOf = pidOf;
  }

  /** Those that rules are about. */
  get pidFiles(): readonly string[] {
    return [...new Set(this.#rules.flatMap(({ pidFile }) => pidFile ?? []))];
  }

  /** What is told without a row: silence, or a panic that the hypervisor tells. */
  ofWord(word: EventWord): Meaning | undefined {
    const rule = this.#rules.findLast(
      ({ events, process, cgroup, unit, pidFile, fields }) =>
        events.includes(word) &&
        process === undefined &&
        cgroup === undefined &&
        unit === undefined &&
        pidFile === undefined &&
        Object.keys(fields).length === 0,
    );
    return rule && { rule, event: word };
  }

  /** Those that events with that declaration may match, the last one first; empty: none of them means anything. */
  candidates(probe: string, decoder: EventDecoder): readonly Tested[] {
    const known = this.#tested.get(decoder);
    if (known !== undefined) return known;
    const name = `${probe}.${decoder.declaration.name}`;
    const found = this.#rules
      .flatMap((rule) => rule.events.flatMap((event) => tested(rule, event, name, decoder, this.#pidOf)))
      .reverse();
    this.#tested.set(decoder, found);
    return found;
  }
}

/** Of a row that fits the declaration the candidates were made for. */
export function meaningOf(
  candidates: readonly Tested[],
  rows: PayloadRows,
  row: number,
): Meaning | undefined {
  for (const candidate of candidates) if (passes(candidate.tests, rows, row)) return candidate;
  return undefined;
}

function passes(tests: readonly RowTest[], rows: PayloadRows, row: number): boolean {
  for (const test of tests) if (!test(rows, row)) return false;
  return true;
}

/** Empty where no event of that name can match. */
function tested(
  rule: Rule,
  event: string,
  name: string,
  decoder: EventDecoder,
  pidOf: PidOf,
): readonly Tested[] {
  const { pidFile } = rule;
  if ((probeEventOf[event] ?? event) !== name) return [];
  const tests = [
    ...(event === 'crash' ? [crashTest(decoder)] : []),
    ...Object.entries(rule.fields).map(([field, shown]) => fieldTest(decoder, field, shown)),
    ...(rule.process === undefined ? [] : [processTest(decoder, rule.process)]),
    ...(rule.cgroup === undefined ? [] : [cgroupTest(decoder, rule.cgroup)]),
    ...(pidFile === undefined ? [] : [pidTest(decoder, () => pidOf(pidFile))]),
    ...(rule.unit === undefined ? [] : [unitTest(decoder, rule.unit)]),
  ];
  return tests.every((test) => test !== undefined) ? [{ rule, event, tests }] : [];
}
