// SPDX-License-Identifier: Apache-2.0

/** A client of QEMU's machine protocol: docs/interop/qmp-spec.rst of QEMU. One JSON object per line, in both directions. */

import type { Socket } from 'node:net';
import { z } from 'zod';
import { connectSocket } from '../../channel/unix-socket.ts';
import { messageOf, VesperError } from '../../error.ts';
import { loadRelayAddon } from '../../relay/native.ts';

export interface QmpEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface QmpOptions {
  /** For connection, greeting and negotiation together. */
  readonly connectLimitMs?: number;
  /** For one command. */
  readonly commandLimitMs?: number;
  /** Longest line QEMU may send. */
  readonly lineMaxBytes?: number;
  readonly onEvent?: (event: QmpEvent) => void;
  /** Once, with the reason, after the connection was established. */
  readonly onClose?: (reason: string) => void;
}

const messageShape = z.union([
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).optional() }),
  z.object({ return: z.unknown(), id: z.number().optional() }),
  z.object({ error: z.object({ class: z.string(), desc: z.string() }), id: z.number().optional() }),
  z.object({ QMP: z.object({ version: z.object({ qemu: z.record(z.string(), z.number()) }) }) }),
]);
type Message = z.infer<typeof messageShape>;

interface Pending {
  readonly command: string;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: VesperError) => void;
  readonly timer: NodeJS.Timeout;
}

const anything = z.unknown();

export class QmpClient {
  readonly path: string;
  /** Of QEMU: `7.2.22`. */
  version = 'unknown';

  readonly #socket: Socket;
  readonly #options: QmpOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #subscribers = new Set<(event: QmpEvent) => void>();
  #nextId = 1;
  /** Pieces of the line that is not whole yet. */
  #pieces: Buffer[] = [];
  #pieceBytes = 0;
  #greeted: (() => void) | undefined;
  #ready = false;
  #closedBecause: string | undefined;

  /**
   * Connect, wait for the greeting and enter command mode. Throws UNREACHABLE, TIMEOUT or PROVIDER.
   *
   * A monitor serves one client; for a second one the connection succeeds and then nothing ever comes.
   */
  static async connect(path: string, options: QmpOptions = {}): Promise<QmpClient> {
    const limitMs = options.connectLimitMs ?? 3_000;
    const client = new QmpClient(path, await connectSocket(path, limitMs), options);
    try {
      await client.#greeting(limitMs);
      await client.execute('qmp_capabilities');
    } catch (error) {
      client.close();
      throw error;
    }
    client.#ready = true;
    return client;
  }

  private constructor(path: string, socket: Socket, options: QmpOptions) {
    this.path = path;
    this.#socket = socket;
    this.#options = options;
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.once('end', () => this.#end('QEMU closed its monitor'));
    socket.on('error', (error) => this.#end(`the connection to QEMU broke: ${messageOf(error)}`));
    socket.once('close', () => this.#end('QEMU closed its monitor'));
  }

  /**
   * Run a command. Throws PROVIDER where QEMU refuses it (`data.class`, `data.desc`), TIMEOUT, and UNREACHABLE when the
   * connection is gone. `shape` checks and types what comes back.
   */
  async execute<T = unknown>(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    shape: z.ZodType<T> = anything as z.ZodType<T>,
  ): Promise<T> {
    if (this.#closedBecause !== undefined) throw this.#gone(command);
    const id = this.#nextId++;
    const limitMs = this.#options.commandLimitMs ?? 5_000;
    const result = await new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        const message = `${this.path}: QEMU did not answer ${command} within ${limitMs} ms: it hangs or was stopped`;
        reject(new VesperError('TIMEOUT', message, { data: { command, limitMs } }));
      }, limitMs);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
    const parsed = shape.safeParse(result);
    if (parsed.success) return parsed.data;
    const message = `${this.path}: QEMU's answer to ${command} is not understood: ${parsed.error.message}`;
    throw new VesperError('PROVIDER', message, { data: { command } });
  }

  /** Hear every event from now on; returns how to stop that. */
  subscribe(handler: (event: QmpEvent) => void): () => void {
    this.#subscribers.add(handler);
    return () => this.#subscribers.delete(handler);
  }

  /** QEMU's process id: of whoever listens at the socket. Undefined where that cannot be told. */
  get pid(): number | undefined {
    const { _handle: handle } = this.#socket as Socket & {
      readonly _handle?: { readonly fd?: number } | null;
    };
    if (this.closed || typeof handle?.fd !== 'number' || handle.fd < 0) return undefined;
    return loadRelayAddon().peerProcess(handle.fd);
  }

  get closed(): boolean {
    return this.#closedBecause !== undefined;
  }

  close(): void {
    this.#end('closed by the service');
  }

  #greeting(limitMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (code: 'TIMEOUT' | 'UNREACHABLE', message: string) => {
        clearTimeout(timer);
        reject(new VesperError(code, `${this.path}: ${message}`, { data: { path: this.path } }));
      };
      const timer = setTimeout(() => {
        fail(
          'TIMEOUT',
          `no greeting from QEMU within ${limitMs} ms: a monitor serves one client at a time: end the other one, or give QEMU a further monitor (-qmp unix:PATH,server=on,wait=off)`,
        );
      }, limitMs);
      this.#socket.once('close', () =>
        fail('UNREACHABLE', this.#closedBecause ?? 'closed before the greeting'),
      );
      this.#greeted = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #receive(chunk: Buffer): void {
    let rest = chunk;
    for (let at = rest.indexOf(0x0a); at >= 0 && !this.closed; at = rest.indexOf(0x0a)) {
      this.#pieces.push(rest.subarray(0, at));
      const line = Buffer.concat(this.#pieces).toString('utf8').trim();
      this.#pieces = [];
      this.#pieceBytes = 0;
      rest = rest.subarray(at + 1);
      if (line !== '') this.#line(line);
    }
    this.#pieceBytes += rest.length;
    if (this.#pieceBytes > (this.#options.lineMaxBytes ?? 4 << 20)) {
      this.#end(`QEMU sent a line of more than ${this.#pieceBytes} bytes`);
    } else if (rest.length > 0) {
      this.#pieces.push(rest);
    }
  }

  #line(line: string): void {
    let message: Message;
    try {
      message = messageShape.parse(JSON.parse(line));
    } catch {
      this.#end(`it does not speak QMP: ${JSON.stringify(line.slice(0, 60))}`);
      return;
    }
    if ('event' in message) {
      const event = { name: message.event, data: message.data ?? {} };
      this.#options.onEvent?.(event);
      for (const handler of this.#subscribers) handler(event);
    } else if ('QMP' in message) {
      const { major, minor, micro } = message.QMP.version.qemu;
      this.version = `${major}.${minor}.${micro}`;
      this.#greeted?.();
    } else {
      this.#reply(message);
    }
  }

  #reply(message: Extract<Message, { id?: number | undefined }>): void {
    // A reply without an id is to a line QEMU could not parse, one with an unknown id came after its time limit.
    const pending = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (message.id === undefined || pending === undefined) return;
    this.#pending.delete(message.id);
    clearTimeout(pending.timer);
    if ('error' in message) pending.reject(this.#refused(pending.command, message.error));
    else pending.resolve(message.return);
  }

  #refused(command: string, { class: kind, desc }: { class: string; desc: string }): VesperError {
    const message = `${this.path}: QEMU refused ${command}: ${desc}`;
    return new VesperError('PROVIDER', message, { data: { command, class: kind, desc } });
  }

  #end(reason: string): void {
    if (this.#closedBecause !== undefined) return;
    this.#closedBecause = reason;
    this.#socket.destroy();
    this.#pieces = [];
    for (const { command, reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(this.#gone(command));
    }
    this.#pending.clear();
    if (this.#ready) this.#options.onClose?.(reason);
  }

  #gone(command: string): VesperError {
    const message = `${this.path}: ${command} was not answered: ${this.#closedBecause}`;
    return new VesperError('UNREACHABLE', message, { data: { command } });
  }
}

/** The text QEMU gave for refusing a command, empty where the error is another one. */
export function refusalText(error: unknown): string {
  const desc = error instanceof VesperError ? error.data['desc'] : undefined;
  return typeof desc === 'string' ? desc : '';
}
