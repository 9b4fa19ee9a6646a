// SPDX-License-Identifier: Apache-2.0

/** One QMP socket: connects when a QEMU is there, makes its machine, and notices when it is gone. */

import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { z } from 'zod';
import { messageOf, VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import type { ProviderEvents } from '../provider.ts';
import { Hardware } from './hardware.ts';
import { Lifecycle, stateOf } from './lifecycle.ts';
import { QemuMachine } from './machine.ts';
import { QmpClient, type QmpEvent } from './qmp.ts';
import { ownerOf, placesOf } from './site.ts';

export interface WatchOptions {
  /** Replaces the name QEMU was given. */
  readonly name?: string;
  readonly directories: { readonly run: string; readonly region: string };
  readonly connectLimitMs: number;
  readonly commandLimitMs: number;
  readonly unplugLimitMs: number;
  /** How long after its end a machine is remembered that nothing names any more. */
  readonly removedKeptMs: number;
  /** Of guests, by name: the unix socket of their vsock backend. */
  readonly hybridVsockPaths: ReadonlyMap<string, string>;
  readonly log: Logger;
  readonly events: ProviderEvents;
  /** The connection ended: look again. */
  readonly onLost: () => void;
  /** There was no socket for so long that its machine was forgotten. */
  readonly onForgotten: () => void;
}

const longestPauseMs = 10_000;

const nameShape = z.object({ name: z.string().optional() });
const uuidShape = z.object({ UUID: z.string() });
const statusShape = z.object({ status: z.string() });

export class MonitorWatch {
  readonly path: string;
  /** Why there is no connection, for people. */
  problem: string | undefined;
  /** Worth an attempt: there is a socket, or somebody named it. */
  present = true;
  readonly #options: WatchOptions;
  #machine: QemuMachine | undefined;
  #qmp: QmpClient | undefined;
  #connecting = false;
  #stopped = false;
  #pauseMs = 0;
  #notBefore = 0;
  /** Runs while there is no socket. */
  #leaving: NodeJS.Timeout | undefined;
  /** Of machines in whose place others came. */
  readonly #replaced = new Set<NodeJS.Timeout>();

  constructor(path: string, options: WatchOptions) {
    this.path = path;
    this.#options = options;
  }

  get connected(): boolean {
    return this.#qmp !== undefined;
  }

  /** Connect, if there is no connection and the last failure was long enough ago. Never rejects. */
  async attempt(): Promise<void> {
    if (this.connected || this.#connecting || this.#stopped) return;
    if (!this.present || performance.now() < this.#notBefore) return;
    this.#connecting = true;
    try {
      await this.#connect();
      this.problem = undefined;
      this.#pauseMs = 0;
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#connecting = false;
    }
  }

  /** Once `present` is known anew: begins, or calls off, to forget the machine. */
  expire(): void {
    if (this.present || this.connected || this.#stopped) {
      clearTimeout(this.#leaving);
      this.#leaving = undefined;
      return;
    }
    this.#leaving ??= setTimeout(() => {
      this.stop();
      if (this.#machine !== undefined) this.#removed(this.#machine);
      this.#options.onForgotten();
    }, this.#options.removedKeptMs);
  }

  stop(): void {
    this.#stopped = true;
    for (const timer of [this.#leaving, ...this.#replaced]) clearTimeout(timer);
    this.#qmp?.close();
  }

  async #connect(): Promise<void> {
    const { connectLimitMs, commandLimitMs } = this.#options;
    const early: QmpEvent[] = [];
    let handle = (event: QmpEvent): void => void early.push(event);
    let close = (): void => {};
    const qmp = await QmpClient.connect(this.path, {
      connectLimitMs,
      commandLimitMs,
      onEvent: (event) => handle(event),
      onClose: () => close(),
    });
    try {
      const { machine, hardware, lifecycle } = await this.#meet(qmp);
      if (qmp.closed || this.#stopped) throw new VesperError('UNREACHABLE', `${this.path}: QEMU went away`);
      handle = (event) => this.#event(machine, hardware, lifecycle, event);
      close = () => this.#lost(machine, hardware, lifecycle);
      this.#qmp = qmp;
      this.#options.events.machineFound(machine);
      for (const event of early) handle(event);
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  /** Ask who this is; the machine stays the same object as long as it is the same one. */
  async #meet(qmp: QmpClient): Promise<{ machine: QemuMachine; hardware: Hardware; lifecycle: Lifecycle }> {
    const { directories, unplugLimitMs, hybridVsockPaths, log } = this.#options;
    const [given, { UUID }, { status }, owner] = await Promise.all([
      qmp.execute('query-name', {}, nameShape),
      qmp.execute('query-uuid', {}, uuidShape),
      qmp.execute('query-status', {}, statusShape),
      ownerOf(this.path),
    ]);
    const name = this.#options.name ?? given.name ?? basename(this.path).replace(/\.(qmp|sock)$/, '');
    const uuid = /^[0-]+$/.test(UUID) ? uuidOfPath(this.path) : UUID.toLowerCase();
    const places = placesOf({ name, uuid }, this.path, directories);
    const hardware = new Hardware({
      name,
      qmp,
      ...places,
      owner,
      unplugLimitMs,
      hybridVsockPath: hybridVsockPaths.get(name),
      log,
    });
    const lifecycle = new Lifecycle(stateOf(status));
    if (this.#machine?.name === name && this.#machine.uuid === uuid) this.#machine.came(hardware, lifecycle);
    else {
      if (this.#machine !== undefined) this.#replace(this.#machine);
      this.#machine = new QemuMachine({ name, uuid }, hardware, lifecycle);
    }
    return { machine: this.#machine, hardware, lifecycle };
  }

  #replace(machine: QemuMachine): void {
    const timer = setTimeout(() => {
      this.#replaced.delete(timer);
      this.#removed(machine);
    }, this.#options.removedKeptMs);
    this.#replaced.add(timer);
  }

  #removed(machine: QemuMachine): void {
    this.#options.events.lifecycle(machine, { kind: 'removed' });
  }

  #event(machine: QemuMachine, hardware: Hardware, lifecycle: Lifecycle, event: QmpEvent): void {
    if (event.name === 'DEVICE_DELETED') hardware.deviceDeleted(event.data);
    const meaning = lifecycle.next(event);
    if (meaning?.kind === 'started') this.#options.events.machineFound(machine);
    else if (meaning !== undefined) this.#options.events.lifecycle(machine, meaning);
  }

  #lost(machine: QemuMachine, hardware: Hardware, lifecycle: Lifecycle): void {
    this.#qmp = undefined;
    if (this.#stopped) return;
    hardware.machineGone();
    const meaning = lifecycle.gone();
    if (meaning !== undefined) this.#options.events.lifecycle(machine, meaning);
    this.#options.onLost();
  }

  #failed(error: unknown): void {
    if (this.#stopped) return;
    const message = messageOf(error);
    const gone = error instanceof VesperError && error.code === 'UNREACHABLE';
    // Nobody there is the usual case and costs nothing; a monitor that somebody else holds is not to be pestered.
    this.#pauseMs = gone ? 0 : Math.min(longestPauseMs, Math.max(1_000, this.#pauseMs * 2));
    this.#notBefore = performance.now() + this.#pauseMs;
    if (message !== this.problem && !gone) this.#options.log.warn(message);
    this.problem = message;
  }
}

/** A machine without -uuid: its monitor is what tells it apart. A UUID of version 8 (RFC 9562: own scheme). */
function uuidOfPath(path: string): string {
  const digest = createHash('sha256').update(path).digest('hex');
  const parts = [
    digest.slice(0, 8),
    digest.slice(8, 12),
    `8${digest.slice(13, 16)}`,
    `8${digest.slice(17, 20)}`,
  ];
  return [...parts, digest.slice(20, 32)].join('-');
}
