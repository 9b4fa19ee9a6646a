// SPDX-License-Identifier: Apache-2.0

/** docs/performance.md, made of nothing but what one run of the benches printed. */

import type { Figure } from './figure.ts';

export interface Outcome {
  readonly name: string;
  /** What the bench says of itself: its first comment. */
  readonly about: string;
  readonly figures: readonly Figure[];
  /** Why there is not all there should be; undefined: it ran to its end. */
  readonly failure: string | undefined;
  readonly seconds: number;
}

/** Facts about the run: left and right column. */
export type Facts = readonly (readonly [string, string])[];

const method = `Written by \`make bench\` in one run. Each bench is a file of [test/bench](../test/bench) that boots its own guests and
measures what it compares side by side; figures are medians of many rounds unless their name or their bench says otherwise. Both
ends are real: a stock Debian kernel, and the service or the classes it is made of. The time of a record is the guest's, brought
to the host's clock with the error the table states. Under TCG the guest's code runs many times slower than on hardware, and
guest, host and whatever else the machine does share its cores: ratios carry over to other machines, milliseconds do not. A
figure without a goal explains another one.`;

export function performancePage(facts: Facts, outcomes: readonly Outcome[]): string {
  const parts = ['# Performance', method, factTable(facts), verdict(outcomes), ...outcomes.map(section)];
  return `${parts.join('\n\n')}\n`;
}

/** What a run did not reach: one line each; empty: nothing. */
export function shortcomings(outcomes: readonly Outcome[]): readonly string[] {
  return outcomes.flatMap(({ name, figures, failure }) => [
    ...(failure === undefined ? [] : [`failed: ${name}: ${cell(failure)}`]),
    ...figures
      .filter(({ pass }) => !pass)
      .map((figure) => `missed: ${figure.name}: ${valueText(figure)}, goal ${goalText(figure)}`),
  ]);
}

export function section({ name, about, figures, failure, seconds }: Outcome): string {
  const rows = figures.map((figure) => {
    const met = figure.goal === null ? '' : figure.pass ? 'yes' : '**no**';
    return `| ${figure.name} | ${valueText(figure)} | ${goalText(figure)} | ${met} |`;
  });
  if (failure !== undefined) rows.push(`| ${name} | **failed**: ${cell(failure)} | | **no** |`);
  return [
    `## ${name}`,
    `${about} Took ${seconds.toFixed(0)} s.`.trim(),
    ['| name | measured | goal | met |', '|---|---|---|---|', ...rows].join('\n'),
  ].join('\n\n');
}

function verdict(outcomes: readonly Outcome[]): string {
  const goals = outcomes.flatMap(({ figures }) => figures).filter(({ goal }) => goal !== null);
  const met = goals.filter(({ pass }) => pass).length;
  const failed = outcomes.filter(({ failure }) => failure !== undefined).length;
  const all = `${met} of ${goals.length} goals met, ${failed} of ${outcomes.length} benches failed.`;
  return [
    all,
    shortcomings(outcomes)
      .map((line) => `* ${line}`)
      .join('\n'),
  ]
    .join('\n\n')
    .trimEnd();
}

const factTable = (facts: Facts): string =>
  ['| | |', '|---|---|', ...facts.map(([name, value]) => `| ${name} | ${cell(value)} |`)].join('\n');

const valueText = ({ value, unit }: Figure): string => `${value} ${unit}`;

const goalText = ({ goal, better, unit }: Figure): string =>
  goal === null ? '' : `${better === 'more' ? '≥' : '≤'} ${goal} ${unit}`;

/** What a message may contain would otherwise end the cell, or the row. */
const cell = (text: string): string => text.replaceAll('|', '/').replaceAll(/\s+/g, ' ').trim();
