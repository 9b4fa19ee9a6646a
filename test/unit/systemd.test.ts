// SPDX-License-Identifier: Apache-2.0

/** The files for systemd that a package installs. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { readConfigFile } from '../../host/service/config-file.ts';
import { repository } from '../harness/rig.ts';

const folder = join(repository, 'host/systemd');
const unit = readFileSync(join(folder, 'vesper.service'), 'utf8');
const analyze = (...args: readonly string[]) => spawnSync('systemd-analyze', args, { encoding: 'utf8' });

test('the configuration that comes with it is right', () => {
  expect(readConfigFile(join(folder, 'vesper.yaml'))).toMatchObject({
    providers: { qemu: { folders: ['/run/vms'] } },
    api: { group: 'vesper', mode: 0o660 },
  });
});

test.skipIf(analyze('--version').status !== 0)('systemd understands the unit, and finds it confined', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'vesper-test-'));
  onTestFinished(() => rmSync(scratch, { recursive: true }));
  const installed = join(scratch, 'vesper.service');
  // It is not installed here: any program that is serves.
  writeFileSync(
    installed,
    unit.replaceAll('/usr/bin/vesper', '/bin/true').replace(/^Documentation=.*$/m, ''),
  );
  expect(analyze('verify', '--man=no', installed)).toMatchObject({ status: 0, stdout: '', stderr: '' });
  const confined = analyze('security', '--offline=true', '--no-pager', installed).stdout;
  const [, level = ''] = /exposure level for vesper\.service: ([\d.]+)/.exec(confined) ?? [];
  expect(Number(level)).toBeGreaterThan(0);
  expect(Number(level)).toBeLessThan(4);
});
