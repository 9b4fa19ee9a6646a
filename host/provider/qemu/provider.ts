// SPDX-License-Identifier: Apache-2.0

/** Guests whose QEMU offers a QMP monitor on a unix socket: named one by one, or as `*.qmp` in a folder. */

import { type FSWatcher, watch } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { messageOf } from '../../error.ts';
import type { Logger } from '../../log.ts';
import { removeAbandonedRegions } from '../abandoned-regions.ts';
import type { Provider, ProviderEvents } from '../provider.ts';
import { providerName } from './machine.ts';
import { MonitorWatch } from './monitor-watch.ts';

export interface QemuProviderOptions {
  readonly monitors?: readonly { readonly path: string; readonly name?: string | undefined }[];
  /** Folders in which every socket called `*.qmp` is a monitor. They need not exist yet. */
  readonly folders?: readonly string[];
  /** For the sockets of hot-plugged ports; made where it is missing. */
  readonly runtimeDirectory: string;
  /** For the files of regions: a tmpfs. Default `/dev/shm`. */
  readonly regionDirectory?: string;
  /** How long the region of a guest waits that died while no service was there. Default: a day. */
  readonly blackBoxKeptMs?: number;
  readonly connectLimitMs?: number;
  readonly commandLimitMs?: number;
  /** How long a guest may take to let go of a device. */
  readonly unplugLimitMs?: number;
  /** How long a machine is remembered that has ended and of which nothing is left in the folder. Default: an hour. */
  readonly removedKeptMs?: number;
  /** Of guests with a vhost-user-vsock device, by name: the unix socket on which its backend takes calls (hybrid vsock). */
  readonly hybridVsockPaths?: ReadonlyMap<string, string>;
  readonly log: Logger;
}

const defaultRegionDirectory = '/dev/shm';
const defaultBlackBoxKeptMs = 24 * 3_600_000;
const defaultRemovedKeptMs = 3_600_000;
/** start() waits no longer for machines that do not answer; they are found later. */
const startLimitMs = 1_000;
const lookAgainMs = 1_000;
/** QEMU makes the file of its socket a moment before it listens. */
const newFileMs = 50;

export class QemuProvider implements Provider {
  readonly name = providerName;
  readonly #options: QemuProviderOptions;
  readonly #watches = new Map<string, MonitorWatch>();
  readonly #folders = new Map<string, FSWatcher | undefined>();
  /** Monitors that were given one by one: tried whether or not the socket is there. */
  readonly #named: ReadonlySet<string>;
  #events: ProviderEvents | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: QemuProviderOptions) {
    this.#options = options;
    this.#named = new Set((options.monitors ?? []).map(({ path }) => path));
  }

  async start(events: ProviderEvents): Promise<void> {
    this.#events = events;
    this.#removeAbandoned().catch((error) => this.#options.log.warn(messageOf(error)));
    for (const { path, name } of this.#options.monitors ?? []) this.#add(path, events, name);
    for (const folder of this.#options.folders ?? []) this.#folders.set(folder, undefined);
    await this.#look(startLimitMs);
  }

  async stop(): Promise<void> {
    this.#events = undefined;
    clearTimeout(this.#timer);
    for (const watcher of this.#folders.values()) watcher?.close();
    for (const monitor of this.#watches.values()) monitor.stop();
    this.#folders.clear();
    this.#watches.clear();
  }

  /** Monitors without a connection, and why. */
  problems(): ReadonlyMap<string, string> {
    const known = [...this.#watches.values()].map(({ path, problem }) => [path, problem] as const);
    return new Map(known.filter((entry): entry is [string, string] => entry[1] !== undefined));
  }

  async #removeAbandoned(): Promise<void> {
    const {
      regionDirectory = defaultRegionDirectory,
      blackBoxKeptMs = defaultBlackBoxKeptMs,
      log,
    } = this.#options;
    const removed = await removeAbandonedRegions(regionDirectory, blackBoxKeptMs);
    for (const path of removed) log.info(`removed ${path}: the region of a guest that ended long ago`);
  }

  #add(path: string, events: ProviderEvents, name?: string): void {
    if (this.#watches.has(path)) return;
    const { runtimeDirectory, regionDirectory = defaultRegionDirectory, log } = this.#options;
    const monitor = new MonitorWatch(path, {
      ...(name === undefined ? {} : { name }),
      directories: { run: runtimeDirectory, region: regionDirectory },
      connectLimitMs: this.#options.connectLimitMs ?? 3_000,
      commandLimitMs: this.#options.commandLimitMs ?? 5_000,
      unplugLimitMs: this.#options.unplugLimitMs ?? 10_000,
      removedKeptMs: this.#options.removedKeptMs ?? defaultRemovedKeptMs,
      hybridVsockPaths: this.#options.hybridVsockPaths ?? new Map(),
      log,
      events,
      // Whether its socket is still there decides what is expected of it.
      onLost: () => this.#lookAgain(),
      onForgotten: () => this.#watches.delete(path),
    });
    this.#watches.set(path, monitor);
  }

  /** Look for machines; waits for those that are slow to answer no longer than `limitMs`. */
  async #look(limitMs: number): Promise<void> {
    const events = this.#events;
    if (events === undefined) return;
    for (const monitor of this.#watches.values()) monitor.present = this.#named.has(monitor.path);
    await Promise.all([...this.#folders.keys()].map((folder) => this.#scan(folder, events)));
    for (const monitor of this.#watches.values()) monitor.expire();
    const attempts = Promise.all([...this.#watches.values()].map((monitor) => monitor.attempt()));
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, limitMs);
    await Promise.race([attempts, limit.promise]);
    clearTimeout(timer);
    this.#lookLater();
  }

  #lookLater(): void {
    const missing = [...this.#watches.values()].some(({ connected, present }) => present && !connected);
    const unwatched = [...this.#folders.values()].some((watcher) => watcher === undefined);
    if (missing || unwatched) this.#lookAgain();
  }

  #lookAgain(): void {
    if (this.#events !== undefined && this.#timer === undefined) this.#lookIn(lookAgainMs);
  }

  #lookIn(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.#look(0);
    }, ms);
  }

  async #scan(folder: string, events: ProviderEvents): Promise<void> {
    if (this.#folders.get(folder) === undefined) this.#folders.set(folder, this.#watchFolder(folder));
    let sockets: string[] = [];
    try {
      const entries = await readdir(folder, { withFileTypes: true });
      sockets = entries
        .filter((entry) => entry.isSocket() && entry.name.endsWith('.qmp'))
        .map(({ name }) => name);
    } catch {
      this.#unwatch(folder); // looked for again until it is there
    }
    for (const name of sockets) this.#add(join(folder, name), events);
    for (const monitor of this.#watches.values()) {
      if (dirname(monitor.path) === folder) monitor.present ||= sockets.includes(basename(monitor.path));
    }
  }

  #watchFolder(folder: string): FSWatcher | undefined {
    try {
      const watcher = watch(folder, (_, name) => {
        if (name === null || name.endsWith('.qmp') || name === basename(folder)) this.#lookIn(newFileMs);
      });
      watcher.on('error', () => this.#unwatch(folder));
      return watcher;
    } catch {
      return undefined; // looked for again until it is there
    }
  }

  #unwatch(folder: string): void {
    this.#folders.get(folder)?.close();
    this.#folders.set(folder, undefined);
    this.#lookLater();
  }
}
