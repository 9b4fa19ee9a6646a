// SPDX-License-Identifier: Apache-2.0

/** What a bench printed, and how it ended, as test/bench.ts reads it. */

import type { Figure } from './figure.ts';

/** Undefined where the line is none of JSON. Throws where it is, and no figure. */
export function figureOf(line: string): Figure | undefined {
  if (!line.startsWith('{')) return undefined;
  const { name, value, unit, goal = null, better = null, pass } = JSON.parse(line) as Partial<Figure>;
  if (name === undefined || typeof value !== 'number' || unit === undefined || pass === undefined)
    throw new Error(`no figure: ${line}`);
  return { name, value, unit, goal, better, pass };
}

/** A missed goal is a bench that worked: it ends with 1 too, but without an exception. */
export function failureOf(
  code: number | null,
  signal: NodeJS.Signals | null,
  figures: readonly Figure[],
  complaint: string,
): string | undefined {
  if (signal !== null) return `ended by ${signal}`;
  if (figures.length === 0) return code === 0 ? 'printed no figure' : reasonIn(complaint);
  const thrown = /^Node\.js v/m.test(complaint);
  if (code !== 0 && (thrown || figures.every(({ pass }) => pass))) return reasonIn(complaint);
  return undefined;
}

const reasonIn = (complaint: string): string =>
  complaint.split('\n').find((line) => /^\w*Error\b/.test(line)) ?? 'it ended with an error';
