// SPDX-License-Identifier: Apache-2.0

import { randomBytes } from 'node:crypto';
import { VesperError } from '../error.ts';
import type { SerialLine } from './serial.ts';

/** Of a longer line the shell's line editor drops the end, and waits for one that never comes. */
const longestLine = 900;
const pieceLength = 512;
/** The kernel takes no longer argument (MAX_ARG_STRLEN). */
const longestCommand = (128 << 10) - 1;
const pieceLimitMs = 30_000;

export interface RunOptions {
  /** 30 s unless given. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly status: number;
  /** Both streams, without the last line end. */
  readonly output: string;
}

/**
 * Commands for the shell on the guest's second serial line, one at a time. Each is sent in base64 and answered between
 * two marks of its own, so nothing in it can be mistaken for the frame; a long one goes ahead in pieces. It runs in a shell of its own without input,
 * and open to the OOM killer, which the line's shell is not.
 */
export class GuestShell {
  readonly #line: SerialLine;
  #last: Promise<unknown> = Promise.resolve();

  constructor(line: SerialLine) {
    this.#line = line;
  }

  /** Meets a fresh shell: no echo, no prompt. */
  async greet(timeoutMs: number): Promise<void> {
    const mark = nonce();
    this.#last = Promise.resolve();
    const before = this.#line.position;
    // What the terminal echoes has the expression in it, what the shell prints has its value.
    this.#line.send(`stty raw -echo; PS1=; PS2=; echo ${mark}-$((1+1))\n`);
    await this.#line.waitFor(new RegExp(`${mark}-2\n`), timeoutMs, before);
  }

  /** Throws USAGE where the command is longer than a shell can be given. */
  run(command: string, options: RunOptions = {}): Promise<RunResult> {
    const turn = this.#last.then(() => this.#exchange(command, options.timeoutMs ?? 30_000));
    this.#last = turn.catch(() => {}); // Whoever asked gets the error; the next command has its own chance.
    return turn;
  }

  /** Writes a command that is not answered. */
  async post(command: string): Promise<void> {
    await this.#last;
    this.#line.send(`${await this.#prepared(command)}\n`);
  }

  /** The line that runs the command; what is too long for a line is in a variable of the shell by then. */
  async #prepared(command: string): Promise<string> {
    const script = Buffer.from(`echo 0 >/proc/self/oom_score_adj\n${command}\n`);
    if (script.length > longestCommand) {
      const message = `a command of ${script.length} bytes is more than a shell can be given (${longestCommand}): put it into a file of the guest's image`;
      throw new VesperError('USAGE', message, { data: { bytes: script.length } });
    }
    const encoded = script.toString('base64');
    if (guestCommand(encoded).length <= longestLine) return guestCommand(encoded);
    const mark = nonce();
    for (let at = 0; at < encoded.length; at += pieceLength) {
      const before = this.#line.position;
      // Its answer is awaited: the line has no flow control.
      this.#line.send(
        `vesper_command=${at === 0 ? '' : '"$vesper_command"'}${encoded.slice(at, at + pieceLength)}; echo ${mark}-${at}\n`,
      );
      await this.#line.waitFor(new RegExp(`${mark}-${at}\n`), pieceLimitMs, before);
    }
    return guestCommand('$vesper_command');
  }

  async #exchange(command: string, timeoutMs: number): Promise<RunResult> {
    const prepared = await this.#prepared(command);
    const mark = nonce();
    const before = this.#line.position;
    this.#line.send(`echo ${mark}-begin; ${prepared}; echo ${mark}-end $?\n`);
    try {
      const pattern = new RegExp(`${mark}-begin\n([^]*?)${mark}-end (\\d+)\n`);
      const [, output = '', status] = await this.#line.waitFor(pattern, timeoutMs, before);
      return { status: Number(status), output: decode(output).replace(/\n$/, '') };
    } catch (cause) {
      if (!(cause instanceof VesperError && cause.code === 'TIMEOUT')) throw cause;
      throw new VesperError(
        'TIMEOUT',
        `The guest did not finish within ${timeoutMs} ms: ${command}\n${cause.message}`,
        {
          cause,
          data: { command },
        },
      );
    }
  }
}

const guestCommand = (encoded: string): string => `sh -c "$(echo ${encoded} | base64 -d)" </dev/null 2>&1`;

function nonce(): string {
  return `vesper-${randomBytes(8).toString('hex')}`;
}

function decode(latin1: string): string {
  return Buffer.from(latin1, 'latin1').toString('utf8');
}
