// SPDX-License-Identifier: Apache-2.0

/**
 * Tells the service manager how the service fares (sd_notify(3)): ready, reloading, stopping, one line of status, and, where it
 * keeps a watchdog, that the event loop turns. Without NOTIFY_SOCKET nothing is said to anybody.
 */

import { loadSocketAddon, type SocketAddon } from '../channel/native.ts';
import { messageOf } from '../error.ts';
import type { Logger } from '../log.ts';

export class ServiceManager {
  readonly #path: string | undefined;
  readonly #socket: SocketAddon | undefined;
  readonly #log: Logger;
  readonly #watchdogMs: number | undefined;
  #watchdog: NodeJS.Timeout | undefined;

  /** Throws HOST where there is a service manager and the addon is missing. */
  constructor(log: Logger, environment: NodeJS.ProcessEnv = process.env) {
    const { NOTIFY_SOCKET: path = '', WATCHDOG_USEC: period, WATCHDOG_PID: watched } = environment;
    this.#path = path === '' ? undefined : path;
    this.#socket = path === '' ? undefined : loadSocketAddon();
    this.#log = log;
    const forUs = watched === undefined || Number(watched) === process.pid;
    this.#watchdogMs = forUs && Number(period) > 0 ? Number(period) / 1_000 : undefined;
  }

  /** Started, or done with a reload. From the first time on the watchdog is fed. */
  ready(status: string): void {
    this.#send(`READY=1\nSTATUS=${oneLine(status)}`);
    if (this.#watchdogMs === undefined || this.#watchdog !== undefined) return;
    // Half of the period, as sd_watchdog_enabled(3) advises: a loop that stands still is a missed ping.
    this.#watchdog = setInterval(() => this.#send('WATCHDOG=1'), this.#watchdogMs / 2);
    this.#watchdog.unref();
  }

  reloading(): void {
    // Node's clock is CLOCK_MONOTONIC, which is what the manager compares with.
    this.#send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  /** The watchdog is fed no longer: the time limit for stopping has taken over. */
  stopping(): void {
    clearInterval(this.#watchdog);
    this.#send('STOPPING=1\nSTATUS=stopping; guests keep their probes');
  }

  #send(text: string): void {
    if (this.#path === undefined) return;
    try {
      this.#socket?.send(this.#path, text);
    } catch (thrown) {
      this.#log.warn(`cannot tell the service manager "${oneLine(text)}": ${messageOf(thrown)}`);
    }
  }
}

/** A line break would begin another assignment. */
const oneLine = (text: string): string => text.replaceAll(/\s*[\r\n]+\s*/g, ' ');
