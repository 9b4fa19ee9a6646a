// SPDX-License-Identifier: Apache-2.0

import { expect, test } from 'vitest';
import { clusterResult } from '../evaluation/cluster-log.ts';
import { detectionShare, goals, summary } from '../evaluation/goals.ts';
import { evaluationPage } from '../evaluation/page.ts';
import { plot, timeText, xOf } from '../evaluation/plot.ts';
import {
  type Costs,
  type Crash,
  type Experiment,
  type Mode,
  modes,
  type Results,
} from '../evaluation/results.ts';

const crash = (mode: Mode, experiment: Experiment, detectedMs: number, more: Partial<Crash> = {}): Crash => ({
  mode,
  experiment,
  sincePollMs: 1_000,
  errorMs: 0.2,
  detectedMs,
  recoveringMs: detectedMs + 50,
  askedMs: detectedMs + 80,
  agentMs: detectedMs + 100,
  answeringMs: detectedMs + 500,
  ...more,
});
const polled = [2_000, 4_000, 9_000].map((ms) => crash('poll 10 s', 'SIGSEGV', ms));
const told = [1, 2, 6].map((ms) => crash('VESPER', 'SIGSEGV', ms));
const costs: Costs = {
  guests: 100,
  polling: { cpu: 0.27, idleCpu: 0.02, polls: 50 },
  inGuest: { qemuCpu: 0.3, idleQemuCpu: 0.1 },
  virtualDomain: 0.05,
  vesper: 0.006,
};
const results = (more: Partial<Results>): Results => ({
  facts: [['date', '2026-01-02 03:04 UTC']],
  rounds: 3,
  seed: 1,
  crashes: [...polled, ...told],
  causes: [],
  failures: [],
  seconds: 60,
  ...more,
});
const rows = (page: string, start: string): readonly string[] =>
  page.split('\n').filter((line) => line.startsWith(`| ${start}`));

test('an operation that ended is read from the log of Pacemaker, with its time', () => {
  const now = new Date(2026, 10, 30, 23, 50);
  const line =
    'Nov 30 23:35:05.353 node1 pacemaker-controld  [55] (log_executor_event) \tnotice: Result of monitor operation for httpd on web1: not running | graph action confirmed; call=23 key=httpd_monitor_10000 rc=7';
  const atMs = new Date(2026, 10, 30, 23, 35, 5, 353).getTime();
  expect(clusterResult(line, now)).toEqual({
    resource: 'httpd',
    task: 'monitor',
    result: 'not running',
    atMs,
  });
  expect(clusterResult(line.replace('not running', 'ok'), now)?.result).toBe('ok');
  // Read in the first seconds of the next year.
  expect(clusterResult(line.replace('Nov 30', 'Dec 31'), new Date(2027, 0, 1))?.atMs).toBe(
    new Date(2026, 11, 31, 23, 35, 5, 353).getTime(),
  );
  const request =
    'Nov 30 23:35:05.353 node1 pacemaker-controld  [55] (do_lrm_rsc_op) \tnotice: Requesting local execution of stop operation for httpd on web1 | transition_key=4:10';
  expect(clusterResult(request, now)).toEqual({ resource: 'httpd', task: 'stop', result: 'requested', atMs });
  const decision =
    'Nov 30 23:35:05.353 node2 pacemaker-controld  [53] (execute_rsc_action) \tnotice: Initiating stop operation httpd_stop_0 on web1 | action 4';
  const stop = { resource: 'httpd', task: 'stop', result: 'initiated', atMs };
  expect(clusterResult(decision, now)).toEqual(stop);
  expect(clusterResult(decision.replace('on web1', 'locally on web1'), now)).toEqual(stop);
  expect(clusterResult(line.replace('Result of', 'Refusing'), now)).toBeUndefined();
  expect(clusterResult('', now)).toBeUndefined();
});

test('what the times come to', () => {
  expect(summary([3, 1, 8])).toEqual({ median: 3, mean: 4, max: 8 });
  expect(() => summary([])).toThrow(/no values/);
  // Of all the time that the server was away, not the mean of the shares.
  const two = [
    crash('VESPER', 'OOM', 10, { answeringMs: 100 }),
    crash('VESPER', 'OOM', 0, { answeringMs: 900 }),
  ];
  expect(detectionShare(two)).toBeCloseTo(0.01);
});

test('goals are those of what was measured', () => {
  expect(goals({ crashes: [] })).toEqual([]);
  expect(goals({ crashes: polled })).toEqual([]);
  expect(goals({ crashes: [...polled, ...told] }).map(({ measured, met }) => [measured, met])).toEqual([
    ['6 ms', true],
    ['0.6 %', true],
    ['52 ms; polling every 10 s: 5.05 s in the mean', true],
    ['1670 ×', true],
  ]);
  const slow = goals({ crashes: [crash('VESPER', 'OOM', 40, { recoveringMs: 160 })] });
  expect(slow.map(({ what, met }) => [what, met])).toEqual([
    ['OOM: detection, p99', false],
    ["OOM: detection's share of the whole", false],
    ['OOM: recovery begins, median', false],
  ]);
});

test('the page has goals, times, causes and costs of its run, and what did not work', () => {
  const text = "httpd 10s-interval monitor on web1 returned 'not running'";
  const page = evaluationPage(
    results({
      causes: [{ mode: 'poll 10 s', experiment: 'SIGSEGV', text }],
      costs,
      failures: ['OOM | gone\nnow'],
    }),
  );
  expect(page).toContain('| date | 2026-01-02 03:04 UTC |');
  expect(page).toContain('4 of 4 goals met.');
  expect(rows(page, 'poll')).toEqual([
    '| poll 10 s | 3 | 4 s / 5 s / 9 s | 4.05 s / 5.05 s / 9.05 s | 4.08 s / 5.08 s / 9.08 s | 4.1 s / 5.1 s / 9.1 s | 4.5 s / 5.5 s / 9.5 s | 91 % |',
  ]);
  expect(page).toContain(`SIGSEGV, poll 10 s:\n\n\`\`\`\n${text}\n\`\`\``);
  // 0.25 s for 50 polls.
  expect(rows(page, 'the cheapest poll')[0]).toMatch(/\| 5 ms a poll: .* \| 50 % \|$/);
  expect(rows(page, "VESPER's service")[0]).toMatch(/\| \*\*0\.6 %\*\* \|$/);
  expect(page).toContain('* OOM / gone now');
});

test('a run that was ended early has a page that says what is missing', () => {
  const page = evaluationPage(results({ crashes: [] }));
  expect(page).toContain('Nothing was measured of which there is a goal.');
  expect(page.match(/Not measured in this run\./g)).toHaveLength(4);
  expect(page).not.toMatch(/NaN|undefined/);
});

test('the plot has a dot for each time of each crash where its axis says, and a median', () => {
  const svg = plot(results({}));
  expect(svg.match(/<circle cx=/g)).toHaveLength(3 * 6);
  expect(svg.match(/class="median"/g)).toHaveLength(3 * 2);
  expect(svg).toContain(`<circle cx="${xOf(2_000).toFixed(1)}"`);
  expect(svg).toContain('<title>SIGSEGV, VESPER: detected, median 2 ms</title>');
  for (const mode of modes) expect(svg.match(new RegExp(`>${mode}</text>`, 'g'))).toHaveLength(2);
  expect(svg).not.toMatch(/NaN|undefined/);
  // A decade is as wide everywhere; what is not on the axis is drawn at its end.
  expect(xOf(100) - xOf(10)).toBeCloseTo(xOf(1_000) - xOf(100));
  expect(xOf(0)).toBe(xOf(0.1));
  expect(xOf(1e9)).toBe(xOf(1e5));
});

test.each([
  [0.5724, '0.572 ms'],
  [999.4, '999 ms'],
  [5_437, '5.44 s'],
  [-3_756, '-3.76 s'],
])('%d ms is said as %s', (ms, text) => {
  expect(timeText(ms)).toBe(text);
});
