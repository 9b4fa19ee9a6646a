// SPDX-License-Identifier: Apache-2.0

/**
 * The native reader (`build/native/relay.node`, sources in `native/relay/`), typed.
 *
 *   const region = new native.Region(path, { bytes, epoch, rings: layout.rings, resume: false });
 *   const batch = new native.Batch(4096, 512 * 1024);
 *   const n = region.drain(batch);       // rows 0 … n-1 of the columns; nothing is given back to the guest yet
 *   region.release();                    // delivered: the guest may overwrite it
 *
 * A `Region` never trusts what it reads and never throws because of it: a ring that breaks the rules is given up, which
 * `statistics()` tells. Errors thrown carry `code` (`ENOENT`, `EINVAL`, …) and, from system calls, `errno` and `syscall`.
 */

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { messageOf, VesperError } from '../error.ts';
import type { RingLayout } from './layout.ts';

/** In bytes, both multiples of the page. */
export interface FilePiece {
  readonly offset: number;
  readonly bytes: number;
}

/** A region that lies in parts of a file: of the RAM of its guest. */
export interface RegionRam {
  /** Open for reading and writing, by whoever provided it. */
  readonly fd: number;
  /** In the order of the region's bytes. */
  readonly pieces: readonly FilePiece[];
}

export interface RegionOptions {
  /** How much to map; the file has to be at least as long. */
  readonly bytes: number;
  readonly epoch: bigint;
  readonly rings: readonly RingLayout[];
  /** Go on where the last reader of this epoch released. Otherwise from position 0. */
  readonly resume?: boolean;
  /** Parts of the file that make up the region, in its order; otherwise it is the file's beginning. */
  readonly pieces?: readonly FilePiece[] | undefined;
  /** For the regions of dead guests: drains and scans, and changes nothing. */
  readonly readOnly?: boolean;
}

/** Columns that `drain()` fills: reused, so copy what has to outlive the next call. */
export interface NativeBatch {
  readonly slot: Uint16Array;
  readonly event: Uint16Array;
  readonly cpu: Uint16Array;
  /** Index of the ring in the layout. */
  readonly ring: Uint16Array;
  /** CLOCK_BOOTTIME of the guest in nanoseconds; exact below 2^53 (104 days of uptime), to 2 ns below 2^54. */
  readonly timeNs: Float64Array;
  /** Number of the record in its ring and epoch, lost ones counted too: the same record keeps it when delivered again. */
  readonly sequence: Float64Array;
  /** In `arena`, a multiple of 8. */
  readonly payloadOffset: Uint32Array;
  readonly payloadBytes: Uint32Array;
  readonly arena: Uint8Array;
}

/** Of one answer: when it was asked for and when it was seen, by CLOCK_MONOTONIC, and what the guest wrote; in ns. */
export interface ClockAnswer {
  readonly askedNs: bigint;
  readonly guestNs: bigint;
  readonly answeredNs: bigint;
}

export interface NativeRegion {
  /**
   * Fills the batch with up to `limit` records (default: all it holds) and returns how many: critical rings first, a
   * quarter of the room kept for the others, rings of a kind in turn. 0: nothing is left.
   */
  drain(batch: NativeBatch, limit?: number): number;
  /** Gives everything drained so far back to the guest, and notes in the region how far that is. */
  release(): void;
  /** Writes what only the host writes anew where the guest overwrote it, and counts that. */
  reclaim(): void;
  /** The next drain starts again where the last release was. */
  rewind(): void;
  /** Of a dead guest, after draining: released records not yet overwritten; call until it returns 0. */
  history(batch: NativeBatch): number;
  /** Of a dead guest, after draining: records that were written but not published; call until it returns 0. */
  beyond(batch: NativeBatch): number;
  hasData(): boolean;
  /** Asks the guest for a doorbell at the next record. True: there is data already and none was asked for. */
  armWakeups(): boolean;
  disarmWakeups(): void;
  /** Writes `statisticsPerRing` numbers for each ring. */
  statistics(into: Float64Array): void;
  /** A copy of some of the region. */
  read(offset: number, bytes: number): Uint8Array;
  /** The same into an array of the caller: fills all of it. */
  readInto(offset: number, into: Uint8Array): void;
  /**
   * Asks the guest for its time through the region, on a thread of its own, and takes the answer that came soonest of some; undefined:
   * none came, the first within `limitNs`. The guest has to be told to look: see compare_clocks in host/wire/message.ts.
   */
  compareClocks(limitNs: number): Promise<ClockAnswer | undefined>;
  /** The file became shorter than the mapping; every ring is given up. */
  readonly truncated: boolean;
  readonly closed: boolean;
  /** Unmaps: after the return no thread of this process touches the region. Idempotent. */
  close(): void;
}

export interface WatcherOptions {
  /** Between two looks while records arrive. Default 200 µs. */
  readonly pollNs?: number;
  /** Between two looks just before the region is let sleep. Default 500 µs. */
  readonly longestPollNs?: number;
  /** After this long without a record the guest is asked for a doorbell and no longer polled. Default 5 ms. */
  readonly quietNs?: number;
}

/** One thread for all regions of the process. It does not keep the event loop alive. */
export interface NativeWatcher {
  /** Starts polling the region. Closing the region removes it. */
  add(region: NativeRegion, id: number): void;
  remove(region: NativeRegion): void;
  /** A doorbell came: the caller drains now, and calls `done()` when nothing is left. */
  wake(region: NativeRegion): void;
  /** The region is drained: look after it again. */
  done(region: NativeRegion): void;
  /** Regions that are not asleep. */
  readonly awake: number;
  close(): void;
}

/** Hands a region and its doorbell to a VMM, as QEMU's ivshmem server does (docs/specs/ivshmem-spec.rst of QEMU). */
export interface NativeRegionServer {
  /**
   * Waits for the VMM to connect; it can make its device when this has resolved. A write of `peer << 16` to the doorbell
   * register then puts bytes into the doorbell. Rejects with ETIMEDOUT.
   */
  serve(peer: number, limitMs: number): Promise<void>;
  /** After the VMM made its device, or to give up. Removes the socket. Idempotent. */
  close(): void;
}

export interface RelayAddon {
  readonly Region: new (file: string | number, options: RegionOptions) => NativeRegion;
  /** `records` 4 … 2^20, `arenaBytes` 64 KiB … 1 GiB. */
  readonly Batch: new (
    records: number,
    arenaBytes: number,
  ) => NativeBatch;
  /** `onReady` gets the ids of regions that have records; each is announced once until `done()`. */
  readonly Watcher: new (
    onReady: (ids: readonly number[]) => void,
    options?: WatcherOptions,
  ) => NativeWatcher;
  /** Listens at `socketPath` (mode 0600) at once. */
  readonly RegionServer: new (
    socketPath: string,
    regionPath: string,
    doorbellPath: string,
  ) => NativeRegionServer;
  /** A named pipe, mode 0600. */
  makeDoorbell(path: string): void;
  /** Process id of whoever listened at the other end of a connected unix socket. */
  peerProcess(fd: number): number;
  /** Offsets compiled into the reader. */
  readonly layout: Readonly<Record<string, number>>;
}

/** Why a ring was given up; the order is that of `enum Fault` in native/relay/ring.h. */
export const faultNames = [
  'none',
  'head-misaligned',
  'head-behind-tail',
  'head-overrun',
  'tail-invalid',
  'tag',
  'length',
  'crosses-end',
  'crosses-head',
  'padding',
  'sequence',
  'truncated',
  'header',
] as const;
export type Fault = (typeof faultNames)[number];

/** Numbers a ring of `NativeRegion.statistics`, in this order. */
export const statisticsFields = [
  'fault',
  'received',
  'receivedBytes',
  'receivedBefore',
  'nextSequence',
  'gaps',
  'duplicates',
  'late',
  'paddings',
  'guestAttempts',
  'guestLost',
  'pendingBytes',
  'overwritten',
] as const;
export const statisticsPerRing = statisticsFields.length;

/** From host/relay and from dist/relay alike. */
const addonPath = fileURLToPath(new URL('../../build/native/relay.node', import.meta.url));
let loaded: RelayAddon | undefined;

/** Loads the addon once. Throws HOST where it was not built or does not fit this Node. */
export function loadRelayAddon(): RelayAddon {
  if (loaded !== undefined) return loaded;
  try {
    loaded = createRequire(import.meta.url)(addonPath) as RelayAddon;
    return loaded;
  } catch (cause) {
    throw new VesperError(
      'HOST',
      `the native relay reader cannot be loaded from ${addonPath} (${messageOf(cause)}): run "make native"`,
      { cause, data: { path: addonPath } },
    );
  }
}
