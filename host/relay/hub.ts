// SPDX-License-Identifier: Apache-2.0

/**
 * One per process: carries the records of all regions to their handlers in slices, so that neither one guest's storm nor
 * a slow handler holds up the event loop or another guest.
 *
 *   const hub = new RelayHub();
 *   const relay = hub.open({ path, layout, epoch, onBatch: (batch) => … });
 *   relay.start();
 */

import { RelayBatch } from './batch.ts';
import {
  loadRelayAddon,
  type NativeRegion,
  type NativeWatcher,
  type RelayAddon,
  type WatcherOptions,
} from './native.ts';
import { Relay, type RelayFactory, type RelayOptions } from './relay.ts';

/** A region that takes its turn in the hub. */
export interface Member {
  readonly region: NativeRegion;
  /** Drains up to `limit` records into `batch` and delivers them; returns how many. Does not throw. */
  turn(batch: RelayBatch, limit: number): number;
}

export interface HubOptions extends WatcherOptions {
  /** Rows of a batch. All regions share one, but for nested calls. */
  readonly batchRecords?: number;
  /** Bytes of records in a batch. */
  readonly arenaBytes?: number;
  /** How long the event loop may be held at a time, in milliseconds. */
  readonly sliceMs?: number;
}

const smallestTurn = 64;
const firstTurn = 256;

export class RelayHub implements RelayFactory {
  readonly addon: RelayAddon;
  readonly batchRecords: number;
  readonly #arenaBytes: number;
  readonly #sliceMs: number;
  readonly #watcher: NativeWatcher;
  readonly #members = new Map<number, Member>();
  readonly #ids = new Map<Member, number>();
  /** Regions that have records, in the order of their turns. */
  readonly #ready = new Set<Member>();
  readonly #spareBatches: RelayBatch[] = [];
  #nextId = 1;
  #scheduled: NodeJS.Immediate | undefined;
  #running = false;
  /** Records a turn takes: follows the speed of the handlers. */
  #limit = firstTurn;

  /** Throws HOST where the native reader is not built. */
  constructor(options: HubOptions = {}) {
    this.addon = loadRelayAddon();
    this.batchRecords = options.batchRecords ?? 1024;
    this.#arenaBytes = options.arenaBytes ?? 512 * 1024;
    this.#sliceMs = options.sliceMs ?? 2;
    this.#watcher = new this.addon.Watcher((ids) => this.#announced(ids), options);
  }

  open(options: RelayOptions): Relay {
    return new Relay(this, options);
  }

  /** Regions that are being polled or drained; 0: nothing wakes up. */
  get awake(): number {
    return this.#watcher.awake;
  }

  /** For Relay: start and stop looking after a region. */
  add(member: Member): void {
    const id = this.#nextId++;
    this.#members.set(id, member);
    this.#ids.set(member, id);
    this.#watcher.add(member.region, id);
  }

  remove(member: Member): void {
    const id = this.#ids.get(member);
    if (id === undefined) return;
    this.#ids.delete(member);
    this.#members.delete(id);
    this.#ready.delete(member);
    this.#watcher.remove(member.region);
  }

  /** There is something to read: drain now, without waiting for the thread. */
  wake(member: Member): void {
    if (!this.#ids.has(member)) return;
    this.#watcher.wake(member.region);
    this.#ready.add(member);
    this.#run();
  }

  /** Runs `use` with a batch that nobody else uses meanwhile: handlers may cause further draining. */
  withBatch<T>(use: (batch: RelayBatch) => T): T {
    const batch =
      this.#spareBatches.pop() ?? new RelayBatch(new this.addon.Batch(this.batchRecords, this.#arenaBytes));
    try {
      return use(batch);
    } finally {
      batch.count = 0;
      this.#spareBatches.push(batch);
    }
  }

  /** Stops the thread. Relays have to be closed by their owners. */
  close(): void {
    if (this.#scheduled !== undefined) clearImmediate(this.#scheduled);
    this.#scheduled = undefined;
    this.#ready.clear();
    this.#watcher.close();
  }

  #announced(ids: readonly number[]): void {
    for (const id of ids) {
      const member = this.#members.get(id);
      if (member !== undefined) this.#ready.add(member);
    }
    this.#run();
  }

  /** Gives turns until nothing is left or the slice is over; then the event loop has its turn. */
  #run(): void {
    // A handler may wake another region: it gets its turn in the loop that is running.
    if (this.#running || this.#scheduled !== undefined) return;
    this.#running = true;
    try {
      this.withBatch((batch) => this.#slice(batch));
    } finally {
      this.#running = false;
    }
    if (this.#ready.size === 0) return;
    this.#scheduled = setImmediate(() => {
      this.#scheduled = undefined;
      this.#run();
    });
  }

  #slice(batch: RelayBatch): void {
    const started = performance.now();
    let before = started;
    for (const member of this.#ready) {
      const taken = member.turn(batch, this.#limit);
      this.#ready.delete(member);
      if (this.#ids.has(member)) {
        // Where few were left, more are let gather until the next poll: each look takes cache lines from the guest that writes.
        if (taken > this.#limit / 2) this.#ready.add(member);
        else this.#watcher.done(member.region);
      }
      const now = performance.now();
      this.#adapt(taken, now - before);
      before = now;
      if (now - started >= this.#sliceMs) break;
    }
  }

  /** Aims at turns of a quarter of the slice. */
  #adapt(taken: number, ms: number): void {
    const wished = this.#sliceMs / 4;
    if (ms <= wished && taken < this.#limit) return;
    const factor = Math.min(2, Math.max(0.25, wished / Math.max(ms, 0.001)));
    this.#limit = Math.min(this.batchRecords, Math.max(smallestTurn, Math.round(this.#limit * factor)));
  }
}
