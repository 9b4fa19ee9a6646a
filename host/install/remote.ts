// SPDX-License-Identifier: Apache-2.0

/** A way to run commands in a guest. What comes back was written by the guest: bounded, and not to be believed. */

export interface RunOptions {
  /** What the command reads from its standard input; nothing unless given. */
  readonly input?: Uint8Array;
  readonly timeoutMs: number;
}

export interface RunResult {
  /** Of the command; 128 and more where a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Remote {
  /** For messages: `root@web1`, or the socket of an agent. */
  readonly where: string;
  /** How it was reached, for people: host key, kind of authentication. */
  readonly details: readonly string[];
  /**
   * Runs a script in a POSIX shell. A status other than 0 is a result. Throws `UNREACHABLE` when the guest goes away meanwhile, and
   * `TIMEOUT`; the script may go on then.
   */
  run(script: string, options: RunOptions): Promise<RunResult>;
  close(): void;
}

/** What is kept of a command's output. */
export const outputMaxBytes = 1 << 20;

/** What a command printed, made safe to show: lines as they are, anything that moves a cursor gone. */
export const outputText = (text: string): string => text.replaceAll(lineEnds, '\n').replaceAll(controls, '?');

const lineEnds = /\r\n?/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** As one word of a POSIX shell. */
export const quoted = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** For errors: how to go on after the guest was lost. */
export const goOn = 'run the same command again: it goes on where this one stopped';
