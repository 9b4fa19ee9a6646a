// SPDX-License-Identifier: Apache-2.0

/** What a page of figures says of the machine they were measured on. */

import { execFileSync } from 'node:child_process';
import { cpus, release, totalmem } from 'node:os';
import { repository } from './rig.ts';

export type Fact = readonly [name: string, value: string];

function textOf(program: string, ...args: readonly string[]): string {
  return execFileSync(program, args, { cwd: repository, encoding: 'utf8' }).split('\n')[0]?.trim() ?? '';
}

/** `guest`: what is said of guests behind QEMU's version. */
export function machineFacts(guest: string): readonly Fact[] {
  const qemu = textOf('qemu-system-x86_64', '--version').replace('QEMU emulator version ', '');
  const processor = cpus()[0]?.model.trim() ?? 'unknown processor';
  return [
    [
      'date',
      `${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC, commit ${textOf('git', 'describe', '--always', '--dirty')}`,
    ],
    [
      'host',
      `${processor}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, kernel ${release()}`,
    ],
    ['QEMU', `${qemu}, ${guest}`],
    ['Node', process.version],
  ];
}
