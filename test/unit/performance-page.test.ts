// SPDX-License-Identifier: Apache-2.0

import { expect, test } from 'vitest';
import { failureOf, figureOf } from '../harness/bench-output.ts';
import type { Figure } from '../harness/figure.ts';
import { type Outcome, performancePage, shortcomings } from '../harness/performance-page.ts';

const met: Figure = { name: 'a_median', value: 3, unit: 'ms', goal: 4, better: 'less', pass: true };
const missed: Figure = { name: 'a_ratio', value: 30, unit: '×', goal: 40, better: 'more', pass: false };
const plain: Figure = { name: 'a_p99', value: 9, unit: 'ms', goal: null, better: null, pass: true };
const outcome = (more: Partial<Outcome>): Outcome => ({
  name: 'a',
  about: 'What a is.',
  figures: [],
  failure: undefined,
  seconds: 12.3,
  ...more,
});

test('a line of a bench is a figure, or none, or broken', () => {
  expect(figureOf(JSON.stringify(missed))).toEqual(missed);
  expect(figureOf('threads with one guest: …')).toBeUndefined();
  // JSON has no NaN: what could not be measured is no figure.
  expect(() => figureOf(JSON.stringify({ ...met, value: Number.NaN }))).toThrow(/no figure/);
  expect(() => figureOf('{"name":')).toThrow();
});

test.each([
  { ended: [0, null, [met], ''], failure: undefined },
  { ended: [1, null, [met, missed], ''], failure: undefined },
  { ended: [1, null, [met], 'Error: no guest\n    at …'], failure: 'Error: no guest' },
  { ended: [1, null, [missed], 'RangeError: oops\n\nNode.js v24'], failure: 'RangeError: oops' },
  { ended: [1, null, [], ''], failure: 'it ended with an error' },
  { ended: [0, null, [], ''], failure: 'printed no figure' },
  { ended: [null, 'SIGKILL', [met], ''], failure: 'ended by SIGKILL' },
] as const)('a bench that ended with $ended.0, $ended.1: $failure', ({ ended, failure }) => {
  const [code, signal, figures, complaint] = ended;
  expect(failureOf(code, signal, figures, complaint)).toBe(failure);
});

test('the page has the facts of its run, every figure, and first what was not reached', () => {
  const outcomes = [
    outcome({ figures: [met, missed, plain] }),
    outcome({ name: 'b', about: 'What b is.', failure: 'Error: one | two\nthree' }),
  ];
  const page = performancePage([['date', '2026-01-02 03:04 UTC']], outcomes);
  expect(page.split('\n').filter((line) => /^[#|*]|goals/.test(line))).toEqual([
    '# Performance',
    '| | |',
    '|---|---|',
    '| date | 2026-01-02 03:04 UTC |',
    '1 of 2 goals met, 1 of 2 benches failed.',
    '* missed: a_ratio: 30 ×, goal ≥ 40 ×',
    '* failed: b: Error: one / two three',
    '## a',
    '| name | measured | goal | met |',
    '|---|---|---|---|',
    '| a_median | 3 ms | ≤ 4 ms | yes |',
    '| a_ratio | 30 × | ≥ 40 × | **no** |',
    '| a_p99 | 9 ms |  |  |',
    '## b',
    '| name | measured | goal | met |',
    '|---|---|---|---|',
    '| b | **failed**: Error: one / two three | | **no** |',
  ]);
  expect(page).toContain('What a is. Took 12 s.');
});

test('where everything was reached the page says so and lists nothing', () => {
  const outcomes = [outcome({ figures: [met, plain] })];
  expect(shortcomings(outcomes)).toEqual([]);
  const page = performancePage([], outcomes);
  expect(page).toContain('1 of 1 goals met, 0 of 1 benches failed.\n\n## a\n');
});
