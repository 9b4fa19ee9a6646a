// SPDX-License-Identifier: Apache-2.0

// `node test/run.ts check unit integration`: runs the stages one after the other and counts what passed and failed
// over all of them. The last line is for machines: "N passed, N failed".

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '..');

interface Count {
  readonly passed: number;
  readonly failed: number;
}

interface JsonReport {
  readonly success: boolean;
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly testResults: readonly { readonly status: string; readonly assertionResults: readonly unknown[] }[];
}

/** The static checks count as one test. */
function runChecks(): Count {
  const { status } = spawnSync('make', ['--no-print-directory', '--keep-going', 'check'], {
    cwd: root,
    stdio: 'inherit',
  });
  return status === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
}

function runProject(project: string): Count {
  const report = join(root, 'build', `test-${project}.json`);
  mkdirSync(join(root, 'build'), { recursive: true });
  rmSync(report, { force: true });
  const args = [
    join(root, 'node_modules/vitest/vitest.mjs'),
    ...['run', '--config', join(root, 'test/vitest.config.ts'), '--project', project, '--passWithNoTests'],
    ...['--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
  ];
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  if (!existsSync(report)) return { passed: 0, failed: status === 0 ? 0 : 1 };
  const result = JSON.parse(readFileSync(report, 'utf8')) as JsonReport;
  // A file that cannot be loaded has no tests to count, and an error outside any test belongs to none.
  const brokenFiles = result.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.length === 0,
  ).length;
  const failed = result.numFailedTests + brokenFiles;
  return { passed: result.numPassedTests, failed: failed === 0 && status !== 0 ? 1 : failed };
}

const counts = process.argv.slice(2).map((stage) => (stage === 'check' ? runChecks() : runProject(stage)));
const passed = counts.reduce((sum, count) => sum + count.passed, 0);
const failed = counts.reduce((sum, count) => sum + count.failed, 0);
process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
