// SPDX-License-Identifier: Apache-2.0

/** A channel over a unix socket: what QEMU offers for a virtio-serial port. */

import { connect, type Socket } from 'node:net';
import { messageOf, VesperError } from '../error.ts';
import type { Channel } from './channel.ts';

export interface UnixSocketOptions {
  /** As Channel.description; default `unix socket PATH`. */
  readonly description?: string;
  /** For the connection. */
  readonly timeLimitMs?: number;
  /** A reader that takes nothing for so long ends the channel. */
  readonly stallLimitMs?: number;
  /** Most bytes that wait for the reader; a write beyond them is rejected and the channel ends. */
  readonly queueMaxBytes?: number;
  /** Ends the channel; the signal's reason is a text for people. */
  readonly signal?: AbortSignal;
}

/** sun_path of unix(7) with its NUL: Linux refuses longer names, some libraries cut them silently. */
const pathMaxBytes = 107;

/**
 * Connect to a listening unix socket. Throws UNREACHABLE or TIMEOUT.
 *
 * A connection proves little: QEMU serves one client and lets a second wait in the backlog without a word.
 */
export async function connectUnixSocket(path: string, options: UnixSocketOptions = {}): Promise<Channel> {
  const socket = await connectSocket(path, options.timeLimitMs ?? 3_000);
  return channelOver(socket, options.description ?? `unix socket ${path}`, options);
}

/** A channel over a socket that is connected; `options.description` and `timeLimitMs` are not looked at. */
export function channelOver(socket: Socket, description: string, options: UnixSocketOptions = {}): Channel {
  return new SocketChannel(socket, description, options);
}

/** The bare socket of a connection; the caller has to listen to `error` and `close`. Throws UNREACHABLE or TIMEOUT. */
export function connectSocket(path: string, timeLimitMs: number): Promise<Socket> {
  if (Buffer.byteLength(path) > pathMaxBytes) {
    const message = `${path}: the name of a unix socket has at most ${pathMaxBytes} bytes: use a shorter directory`;
    return Promise.reject(new VesperError('UNREACHABLE', message, { data: { path } }));
  }
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const settle = (error?: VesperError) => {
      clearTimeout(timer);
      socket.removeAllListeners();
      if (error === undefined) return resolve(socket);
      socket.on('error', () => {}); // the error is already on its way to the caller
      socket.destroy();
      reject(error);
    };
    const timer = setTimeout(() => {
      const message = `${path}: nobody accepted the connection within ${timeLimitMs} ms`;
      settle(new VesperError('TIMEOUT', message, { data: { path, timeLimitMs } }));
    }, timeLimitMs);
    socket.once('connect', () => settle());
    socket.once('error', (error: NodeJS.ErrnoException) => {
      settle(
        new VesperError('UNREACHABLE', whyNot(path, error), {
          cause: error,
          data: { path, errno: error.code },
        }),
      );
    });
  });
}

function whyNot(path: string, error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ENOENT':
      return `${path}: there is no such socket: is the machine running?`;
    case 'ECONNREFUSED':
      return `${path}: nobody listens on this socket: the machine that made it is gone`;
    case 'EACCES':
      return `${path}: permission denied: run as the user of the machine, or as root`;
    case 'EAGAIN':
      return `${path}: the socket serves another client, and more are waiting: end the other client`;
    default:
      return `${path}: ${error.message}`;
  }
}

class SocketChannel implements Channel {
  readonly description: string;
  readonly #socket: Socket;
  readonly #stallLimitMs: number;
  readonly #queueMaxBytes: number;
  #queuedBytes = 0;
  #stallTimer: NodeJS.Timeout | undefined;
  #closedBecause: string | undefined;
  #closeHandler: ((reason: string) => void) | undefined;
  #signal: AbortSignal | undefined;
  readonly #aborted = (): void => this.#end(String(this.#signal?.reason));

  constructor(socket: Socket, description: string, options: UnixSocketOptions) {
    this.description = description;
    this.#socket = socket;
    this.#stallLimitMs = options.stallLimitMs ?? 10_000;
    this.#queueMaxBytes = options.queueMaxBytes ?? 1 << 20;
    socket.once('end', () => this.#end('the other end closed the connection'));
    socket.on('error', (error) => this.#end(`the connection broke: ${messageOf(error)}`));
    socket.once('close', () => this.#end('the connection closed'));
    const { signal } = options;
    if (signal === undefined) return;
    this.#signal = signal;
    if (signal.aborted) this.#aborted();
    else signal.addEventListener('abort', this.#aborted);
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#closedBecause !== undefined) return Promise.reject(this.#ended());
    if (this.#queuedBytes + bytes.length > this.#queueMaxBytes) {
      const message = `${this.description}: ${this.#queuedBytes} bytes wait and the guest does not read them`;
      this.#end('the guest does not read');
      return Promise.reject(
        new VesperError('TIMEOUT', message, { data: { queuedBytes: this.#queuedBytes } }),
      );
    }
    this.#queuedBytes += bytes.length;
    this.#stallTimer ??= setTimeout(() => this.#stalled(), this.#stallLimitMs);
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => {
        this.#queuedBytes -= bytes.length;
        this.#progress();
        if (error) reject(this.#ended());
        else resolve();
      });
    });
  }

  onData(handler: (chunk: Uint8Array) => void): void {
    this.#socket.on('data', (chunk: Buffer) => {
      if (this.#closedBecause === undefined) handler(chunk);
    });
  }

  onClose(handler: (reason: string) => void): void {
    this.#closeHandler = handler;
    const reason = this.#closedBecause;
    if (reason !== undefined) queueMicrotask(() => handler(reason));
  }

  close(): void {
    this.#end('closed by the service');
  }

  #progress(): void {
    if (this.#queuedBytes > 0 && this.#closedBecause === undefined) {
      this.#stallTimer?.refresh();
    } else {
      clearTimeout(this.#stallTimer);
      this.#stallTimer = undefined;
    }
  }

  #stalled(): void {
    this.#end(`the guest read nothing for ${this.#stallLimitMs} ms`);
  }

  #end(reason: string): void {
    if (this.#closedBecause !== undefined) return;
    this.#closedBecause = reason;
    clearTimeout(this.#stallTimer);
    this.#signal?.removeEventListener('abort', this.#aborted);
    // Pending writes come back with an error each.
    this.#socket.destroy();
    const handler = this.#closeHandler;
    if (handler !== undefined) queueMicrotask(() => handler(reason));
  }

  #ended(): VesperError {
    return new VesperError(
      'SESSION_ENDED',
      `${this.description}: ${this.#closedBecause ?? 'the connection broke'}`,
    );
  }
}
