// SPDX-License-Identifier: Apache-2.0

import type { ProbeResult } from '../api/view.ts';
import { printable, Terminal } from './terminal.ts';

const refusedStatus = 4;

/** What attach and detach print; a probe that failed makes the exit status 4. */
export function printResults(results: readonly ProbeResult[], json: boolean): void {
  const terminal = new Terminal();
  if (json) terminal.json(results);
  else for (const result of results) printResult(terminal, result);
  if (results.some(({ ok }) => !ok)) process.exitCode = refusedStatus;
}

export function printResult(terminal: Terminal, result: ProbeResult): void {
  const mark = result.ok ? terminal.style('green', '✓') : terminal.style('red', '✗');
  terminal.line(`${mark} ${printable(result.message)} (${result.took_ms.toFixed(0)} ms)`);
  for (const warning of result.warnings)
    terminal.line(`  ${terminal.style('yellow', '!')} ${printable(warning)}`);
}
