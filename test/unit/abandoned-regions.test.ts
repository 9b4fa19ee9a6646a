// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readdirSync, rmSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { removeAbandonedRegions } from '../../host/provider/abandoned-regions.ts';

const hourMs = 3_600_000;

test('what is old and mapped by nobody goes; all else stays', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vesper-abandoned-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const make = (name: string, ageMs: number): string => {
    const path = join(folder, name);
    copyFileSync('/bin/sleep', path);
    const at = (Date.now() - ageMs) / 1_000;
    utimesSync(path, at, at);
    return path;
  };
  const gone = make('vesper-web-1-00000000-11111111', 2 * hourMs);
  const used = make('vesper-web-2-00000000-11111111', 2 * hourMs);
  make('vesper-web-3-00000000-11111111', 0);
  make('vesper-notes', 2 * hourMs);
  // A program is mapped by whoever runs it.
  const program = spawn(used, ['60'], { stdio: 'ignore' });
  onTestFinished(() => void program.kill());
  await once(program, 'spawn');

  expect(await removeAbandonedRegions(folder, hourMs)).toEqual([gone]);
  expect(readdirSync(folder).sort()).toEqual([
    'vesper-notes',
    'vesper-web-2-00000000-11111111',
    'vesper-web-3-00000000-11111111',
  ]);
});

test('a folder that is not there has none', async () => {
  expect(await removeAbandonedRegions('/nonexistent/vesper', 0)).toEqual([]);
});
