// SPDX-License-Identifier: Apache-2.0

/** How a bench says what it measured: a line of JSON for each figure, which test/bench.ts gathers. */

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** Null: no goal, the figure explains another one. */
  readonly goal: number | null;
  /** Which way the goal is met; null without one. */
  readonly better: Goal['better'] | null;
  readonly pass: boolean;
}

export interface Goal {
  readonly goal: number;
  readonly better: 'more' | 'less';
}

/** Prints a figure; a missed goal makes the bench fail at its end. */
export function report(name: string, value: number, unit: string, goal?: Goal): void {
  const pass = goal === undefined || (goal.better === 'more' ? value >= goal.goal : value <= goal.goal);
  const figure: Figure = {
    name,
    value: Number(value.toPrecision(4)),
    unit,
    goal: goal?.goal ?? null,
    better: goal?.better ?? null,
    pass,
  };
  process.stdout.write(`${JSON.stringify(figure)}\n`);
  if (!pass) process.exitCode = 1;
}

export const atMost = (goal: number): Goal => ({ goal, better: 'less' });
export const atLeast = (goal: number): Goal => ({ goal, better: 'more' });

/** Throws where there is nothing to take it of. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  if (value === undefined) throw new Error('no values were measured');
  return value;
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);
