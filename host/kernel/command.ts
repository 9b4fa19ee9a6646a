// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import { VesperError } from '../error.ts';

export interface CommandOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Said in the error when the program is not installed. */
  readonly package?: string;
  /** The exit statuses that are not errors; `[0]` unless given. */
  readonly accept?: readonly number[];
}

export interface CommandResult {
  readonly status: number;
  /** Standard output alone. */
  readonly stdout: string;
  /** Both streams in the order they came. */
  readonly output: string;
}

/** Runs a program to its end. Throws `HOST` with the tail of its output when it fails. */
export async function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const result = await collect(program, args, options);
  if (!(options.accept ?? [0]).includes(result.status)) {
    const tail = result.output.trim().split('\n').slice(-15).join('\n');
    throw new VesperError('HOST', `${program} failed with status ${result.status}:\n${tail}`, {
      data: { program, args, status: result.status },
    });
  }
  return result;
}

function collect(program: string, args: readonly string[], options: CommandOptions): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: { ...(options.env ?? process.env), LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const stdout: Buffer[] = [];
    const both: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => {
      stdout.push(chunk);
      both.push(chunk);
    });
    child.stderr.on('data', (chunk: Buffer) => both.push(chunk));
    child.on('error', (cause: NodeJS.ErrnoException) => {
      const hint = options.package ? `; install it with: apt-get install ${options.package}` : '';
      const what = cause.code === 'ENOENT' ? 'is not installed' : `cannot be started (${cause.message})`;
      reject(new VesperError('HOST', `${program} ${what}${hint}.`, { cause, data: { program } }));
    });
    child.on('close', (code) =>
      resolve({
        status: code ?? 128,
        stdout: Buffer.concat(stdout).toString(),
        output: Buffer.concat(both).toString(),
      }),
    );
  });
}
