// SPDX-License-Identifier: Apache-2.0

import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { VesperError } from '../error.ts';

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

interface Reply {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
}

/**
 * The harness's own QMP monitor, apart from the one VESPER uses: a monitor has one client at a time. QEMU connects to
 * it when it starts.
 */
export class Monitor {
  readonly #server: Server;
  readonly #pending = new Map<number, Pending>();
  readonly #ready: Promise<void>;
  #socket: Socket | undefined;
  #next = 1;
  #closed: Error | undefined;

  private constructor(server: Server) {
    this.#server = server;
    this.#ready = new Promise((resolve) => {
      server.once('connection', (socket) => {
        this.#socket = socket;
        socket.on('error', () => socket.destroy()); // QEMU died; `close` ends what is pending.
        const lines = createInterface({ input: socket });
        lines.on('line', (line) => this.#receive(line, resolve));
        lines.on('error', () => lines.close()); // It repeats the socket's.
      });
    });
  }

  static async listen(path: string): Promise<Monitor> {
    const server = createServer();
    server.listen(path);
    await once(server, 'listening');
    server.unref();
    return new Monitor(server);
  }

  /** Runs a QMP command and returns what it returns. Throws `PROVIDER` with QEMU's words. */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    await this.#ready;
    return this.#send(command, args);
  }

  close(reason: Error): void {
    this.#closed ??= reason;
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
    this.#socket?.destroy();
    this.#server.close();
  }

  #send(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (this.#closed) return Promise.reject(this.#closed);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#socket?.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  #receive(line: string, ready: () => void): void {
    const message = JSON.parse(line) as Readonly<Record<string, unknown>>;
    if ('QMP' in message) {
      this.#send('qmp_capabilities', {}).then(ready, () => {}); // It fails only when QEMU is gone.
      return;
    }
    const { id, error, return: value } = message as Reply;
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (id === undefined || !pending) return;
    this.#pending.delete(id);
    if (error) pending.reject(new VesperError('PROVIDER', `QEMU refused: ${error.desc}`));
    else pending.resolve(value);
  }
}
