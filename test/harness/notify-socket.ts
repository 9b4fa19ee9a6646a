// SPDX-License-Identifier: Apache-2.0

/** The service manager's end of NOTIFY_SOCKET. Node cannot receive datagrams of unix sockets: socat does, and dumps each. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export class NotifySocket implements AsyncDisposable {
  readonly #socat: ChildProcess;
  readonly #received: string[] = [];
  readonly #listening = Promise.withResolvers<void>();
  #dump = '';
  /** Bytes of the datagram that is being dumped. */
  #due = 0;
  #arrived: (() => void) | undefined;

  private constructor(socat: ChildProcess) {
    this.#socat = socat;
    createInterface({ input: socat.stderr as NodeJS.ReadableStream }).on('line', (line) => this.#line(line));
    socat.once('exit', (code) => this.#listening.reject(new Error(`socat ended (${code})`)));
  }

  /** `@…`: in the abstract namespace. */
  static async listen(path: string): Promise<NotifySocket> {
    const at = path.startsWith('@') ? `ABSTRACT-RECV:${path.slice(1)}` : `UNIX-RECV:${path}`;
    const options = ['-u', '-d', '-d', '-x', at, 'OPEN:/dev/null'];
    const socket = new NotifySocket(spawn('socat', options, { stdio: ['ignore', 'ignore', 'pipe'] }));
    await socket.#listening.promise;
    return socket;
  }

  /** The next datagram. */
  async next(): Promise<string> {
    while (this.#received.length === 0)
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    return this.#received.shift() ?? '';
  }

  /** Datagrams up to one that matches, which is the last. */
  async until(pattern: RegExp): Promise<readonly string[]> {
    const seen = [await this.next()];
    while (!pattern.test(seen.at(-1) ?? '')) seen.push(await this.next());
    return seen;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socat.exitCode !== null) return;
    const gone = once(this.#socat, 'exit');
    this.#socat.kill();
    await gone;
  }

  #line(line: string): void {
    if (line.includes('starting data transfer loop')) this.#listening.resolve();
    else if (line.startsWith('> ')) {
      this.#due = Number(/ length=(\d+) /.exec(line)?.[1]);
      this.#dump = '';
    } else if (this.#due > 0 && /^[ 0-9a-f]+$/.test(line)) this.#take(line.replaceAll(' ', ''));
  }

  #take(hex: string): void {
    this.#dump += hex;
    if (this.#dump.length < this.#due * 2) return;
    this.#due = 0;
    this.#received.push(Buffer.from(this.#dump, 'hex').toString());
    this.#arrived?.();
  }
}
