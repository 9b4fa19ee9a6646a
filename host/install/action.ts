// SPDX-License-Identifier: Apache-2.0

import { VesperError } from '../error.ts';
import type { Remote, RunResult } from './remote.ts';
import type { RootShell } from './root-shell.ts';

/** One change of a guest. The script can be run again after it broke off anywhere. */
export interface Action {
  /** In words, without the guest. */
  readonly what: string;
  /** For a POSIX shell, as root. */
  readonly script: string;
  /** What it reads from its standard input. */
  readonly input?: Uint8Array;
  readonly timeoutMs: number;
  /** It gives the module to the kernel, which may want it signed. */
  readonly loads?: true;
  /** What to do after it failed, by what it printed. */
  readonly advice?: (output: string) => string | undefined;
}

/** Lines of a failed script's output that are told. */
const tailLines = 20;

/** Throws `HOST` with what the script said last, and what to do. */
export async function perform(action: Action, shell: RootShell, remote: Remote): Promise<void> {
  const { what, script, input, timeoutMs, advice } = action;
  const result: RunResult = await shell.change(what, script, {
    timeoutMs,
    ...(input === undefined ? {} : { input }),
  });
  if (result.status === 0) return;
  const output = `${result.stdout}\n${result.stderr}`;
  const tail = output.split('\n').filter(Boolean).slice(-tailLines).join('\n');
  throw new VesperError(
    'HOST',
    `${what} failed in ${remote.where} (status ${result.status}):\n${tail}\n${advice?.(output) ?? 'When that is mended, run the same command again: it goes on where this one stopped.'}`,
    { data: { status: result.status } },
  );
}
