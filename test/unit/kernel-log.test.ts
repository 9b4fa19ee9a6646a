// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import { expectNoComplaints, kernelComplaints } from '../harness/kernel-log.ts';

const quiet = [
  '[    0.000000] Linux version 6.1.0-56-cloud-amd64',
  '[    2.766485] vesper: loaded',
  '[    4.333125] Out of memory: Killed process 113 (leaky)',
];
const warning = [
  '[    5.000001] WARNING: CPU: 0 PID: 71 at kernel/trace/ftrace.c:2072 ftrace_bug+0x2a/0x2d0',
  '[    5.000002] Call Trace:',
  '[    5.000003]  <TASK>',
  '[    5.000004]  ftrace_modify_all_code+0x64/0x170',
  '[    5.000005] ---[ end trace 0000000000000000 ]---',
];
const oops = ['[    6.000001] Oops: int3 [#1] SMP', '[    6.000002] Call Trace:'];

describe("a guest's kernel log", () => {
  test('without complaints', () => {
    expect(kernelComplaints(quiet.join('\n'))).toEqual([]);
    expectNoComplaints(quiet.join('\n'));
  });

  test('each complaint is told with what follows it, and what came between is not', () => {
    const console = [...quiet, ...warning, ...quiet, ...oops].join('\n');
    expect(kernelComplaints(console)).toEqual([warning.join('\n'), oops.join('\n')]);
    expect(() => expectNoComplaints(console)).toThrow('ftrace_modify_all_code+0x64');
  });

  test('a complaint within a report belongs to it; one that never ends is cut', () => {
    const many = Array.from({ length: 500 }, (_, line) => `[    7.000000] line ${line}`);
    const [report, ...more] = kernelComplaints([oops[0], ...oops, ...many].join('\n'));
    expect(more).toEqual([]);
    expect(report?.split('\n').length).toBe(60);
  });
});
