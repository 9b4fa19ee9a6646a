// SPDX-License-Identifier: Apache-2.0

import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { VesperError } from '../error.ts';

/** More text than this is dropped from the front; positions stay valid. */
const limit = 32 * 2 ** 20;

/**
 * The host's end of a guest's serial line. It listens before QEMU starts, so that not a byte is lost, and keeps all
 * that the guest wrote.
 */
export class SerialLine {
  readonly #server: Server;
  #socket: Socket | undefined;
  #text = '';
  #dropped = 0;
  #closed: Error | undefined;
  readonly #waiting = new Set<() => void>();

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket) => {
      this.#socket?.destroy();
      this.#socket = socket;
      // One byte, one character: a multi-byte character may be cut between two chunks.
      socket.setEncoding('latin1');
      socket.on('data', (chunk: string) => this.#append(chunk));
      socket.on('error', () => socket.destroy()); // QEMU died; `close` and Machine.exited tell it.
    });
  }

  static async listen(path: string): Promise<SerialLine> {
    const server = createServer();
    server.listen(path);
    await once(server, 'listening');
    server.unref();
    return new SerialLine(server);
  }

  /** All that was written so far, without carriage returns. */
  get text(): string {
    return this.#text;
  }

  /** The position behind the last character, for `waitFor`. */
  get position(): number {
    return this.#dropped + this.#text.length;
  }

  /** What was written from a position on. */
  since(position: number): string {
    return this.#text.slice(Math.max(0, position - this.#dropped));
  }

  send(text: string): void {
    if (!this.#socket) throw new VesperError('UNREACHABLE', 'The guest has no serial line yet.');
    this.#socket.write(text, 'latin1');
  }

  /** Resolves with the first match behind `position`. Throws `TIMEOUT`, or what `close` was called with. */
  waitFor(pattern: RegExp, timeoutMs: number, position = 0): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void) => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        settle();
      };
      const look = () => {
        const match = pattern.exec(this.since(position));
        if (match) finish(() => resolve(match));
        else if (this.#closed) finish(() => reject(this.#closed));
      };
      const timer = setTimeout(() => {
        const tail = this.since(position).split('\n').slice(-40).join('\n');
        finish(() =>
          reject(
            new VesperError(
              'TIMEOUT',
              `The guest did not write ${pattern} within ${timeoutMs} ms; its last lines:\n${tail}`,
            ),
          ),
        );
      }, timeoutMs);
      this.#waiting.add(look);
      look();
    });
  }

  /** Ends every wait with `reason`. */
  close(reason: Error): void {
    this.#closed ??= reason;
    for (const look of [...this.#waiting]) look();
    this.#socket?.destroy();
    this.#server.close();
  }

  #append(chunk: string): void {
    this.#text += chunk.replaceAll('\r', '');
    if (this.#text.length > limit) {
      const excess = this.#text.length - limit / 2;
      this.#dropped += excess;
      this.#text = this.#text.slice(excess);
    }
    for (const look of [...this.#waiting]) look();
  }
}
