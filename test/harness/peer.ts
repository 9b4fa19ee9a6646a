// SPDX-License-Identifier: Apache-2.0

/** Compiles a program of test/harness/guest, once for the same source; returns the path. */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDirectory } from '../../host/kernel/cache.ts';
import { runCommand } from '../../host/kernel/command.ts';

export const buildPeer = (): Promise<string> => buildGuestProgram('peer');

export async function buildGuestProgram(name: string): Promise<string> {
  const source = join(import.meta.dirname, `guest/${name}.c`);
  const hash = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 24);
  const folder = join(cacheDirectory(), 'images');
  const program = join(folder, `${name}-${hash}`);
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  const flags = ['-static', '-s', '-O2', '-Wall', '-Wextra', '-Werror'];
  await runCommand('gcc', [...flags, '-o', `${program}.${process.pid}`, source], {
    package: 'build-essential',
  });
  renameSync(`${program}.${process.pid}`, program);
  return program;
}
