// SPDX-License-Identifier: Apache-2.0

/**
 * The connection to one libvirtd: opened, kept alive, opened again when it is lost. Guests do not notice: their channels and regions
 * are sockets and files of QEMU. A call about a guest whose QEMU hangs occupies a thread until libvirt returns from it; a guest gets
 * one such thread, not one for each attempt.
 */

import { messageOf, VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import { loadLibvirtAddon } from './addon.ts';
import { codeOf, connectionProblem, guestFailure } from './failure.ts';
import type { NativeConnection, NativeDomain } from './native.ts';

export interface LinkOptions {
  readonly uri: string;
  /** For opening and for each call. */
  readonly timeLimitMs: number;
  readonly log: Logger;
  /** Subscribe and look who is there; where it throws the connection is given up, and opened again later. */
  readonly onOpen: (connection: NativeConnection) => Promise<void>;
}

/** Whom a call is about. */
export interface GuestName {
  readonly name: string;
  readonly uuid: string;
}

const firstPauseMs = 250;
const longestPauseMs = 5_000;
/** Each attempt at a daemon that hangs leaves a thread waiting for it. */
const hungPauseMs = 60_000;

export class LibvirtLink {
  readonly #options: LinkOptions;
  readonly #stopped = new AbortController();
  #connection: NativeConnection | undefined;
  /** UUIDs of guests about which a call was never answered. */
  readonly #hung = new Set<string>();
  /** Why there is no connection, for people. */
  problem: string | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.problem = `${options.uri}: not connected yet`;
  }

  get uri(): string {
    return this.#options.uri;
  }

  /** Keeps a connection until `stop`; never rejects. */
  async run(): Promise<void> {
    let pauseMs = firstPauseMs;
    while (!this.#stopped.signal.aborted) {
      try {
        await this.#once(() => {
          pauseMs = firstPauseMs;
        });
      } catch (thrown) {
        this.#failed(thrown);
        if (codeOf(thrown) === 'TIMEOUT') pauseMs = hungPauseMs;
      }
      await this.#pause(pauseMs);
      pauseMs = Math.min(longestPauseMs, pauseMs * 2);
    }
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    // What hangs is left to its time limit.
    await this.#connection?.close().catch(() => undefined);
  }

  /** Does something with a guest's domain. Throws UNREACHABLE, TIMEOUT or PROVIDER; `doing` is for messages. */
  async onDomain<T>(guest: GuestName, doing: string, work: (domain: NativeDomain) => Promise<T>): Promise<T> {
    const connection = this.#connection;
    if (connection === undefined) {
      const message = `${guest.name}: ${doing}: ${this.problem ?? `${this.uri}: the connection was lost`}`;
      throw new VesperError('UNREACHABLE', message, { data: { guest: guest.name } });
    }
    if (connection.abandonedCalls === 0) this.#hung.clear();
    if (this.#hung.has(guest.uuid)) {
      const message = `${guest.name}: ${doing}: libvirt still waits for its QEMU, which hangs`;
      throw new VesperError('TIMEOUT', message, { data: { guest: guest.name } });
    }
    try {
      return await work(await connection.domainByUuid(guest.uuid));
    } catch (thrown) {
      if (codeOf(thrown) === 'TIMEOUT') this.#hung.add(guest.uuid);
      throw guestFailure(guest.name, doing, thrown);
    }
  }

  /** From opening to the end of one connection. */
  async #once(opened: () => void): Promise<void> {
    const { uri, timeLimitMs, log, onOpen } = this.#options;
    const connection = await loadLibvirtAddon().Connection.open(uri, { timeLimitMs });
    try {
      if (this.#stopped.signal.aborted) return;
      this.#connection = connection;
      await onOpen(connection);
      this.problem = undefined;
      opened();
      log.info(`connected to ${uri}`);
      const reason = await connection.closed;
      if (this.#stopped.signal.aborted) return;
      this.problem = `${uri}: the connection was lost (${reason}); guests go on`;
      log.warn(this.problem);
    } finally {
      this.#connection = undefined;
      this.#hung.clear();
      await connection.close().catch(() => undefined); // of one that hangs nobody waits for the end
    }
  }

  #failed(thrown: unknown): void {
    if (this.#stopped.signal.aborted) return;
    const problem = thrown instanceof VesperError ? messageOf(thrown) : connectionProblem(this.uri, thrown);
    if (problem !== this.problem) this.#options.log.warn(problem);
    this.problem = problem;
  }

  #pause(ms: number): Promise<void> {
    const { signal } = this.#stopped;
    return new Promise((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', finish);
        resolve();
      };
      const timer = setTimeout(finish, ms);
      signal.addEventListener('abort', finish);
      if (signal.aborted) finish();
    });
  }
}
