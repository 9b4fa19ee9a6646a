// SPDX-License-Identifier: Apache-2.0

/** The relay of one guest in one epoch: delivers what its rings hold, counts what they lost. */

import { messageOf, VesperError } from '../error.ts';
import { regionHeader } from '../wire/region.ts';
import type { RelayBatch } from './batch.ts';
import type { RelayHub } from './hub.ts';
import { differencesOf, type RegionLayout } from './layout.ts';
import { type LossReport, lossReport, namedStatistics, type RingStatistics } from './loss.ts';
import {
  type ClockAnswer,
  type NativeRegion,
  type RegionRam,
  statisticsFields,
  statisticsPerRing,
} from './native.ts';

export type { RelayBatch } from './batch.ts';

export interface RelayOptions {
  /** The region file; with `ram` only what messages call it. */
  readonly path: string;
  readonly ram?: RegionRam | undefined;
  readonly layout: RegionLayout;
  readonly epoch: bigint;
  /** Stamped into the region; undefined: not compared. */
  readonly token?: Uint8Array;
  /** Takes the rows of the batch before it returns; the batch is used again. */
  readonly onBatch: (batch: RelayBatch) => void;
  /** Records were given back to the guest: the tails of some rings have moved on. */
  readonly onRelease?: (() => void) | undefined;
  /** A ring was found broken and is no longer read; called once for each. */
  readonly onQuarantine?: (ring: RingStatistics) => void;
  /** The guest overwrote the host's half of the ring's block, which is written anew; called once for each. */
  readonly onOverwrite?: (ring: RingStatistics) => void;
  /** `onBatch` threw. The batch counts as delivered: it would throw again. */
  readonly onHandlerError?: (error: unknown) => void;
}

export interface RelayStatistics extends LossReport {
  /** Number of rings. */
  readonly rings: number;
  readonly perRing: readonly RingStatistics[];
  readonly batches: number;
  /** Calls of `onBatch` that threw. */
  readonly handlerErrors: number;
}

/** What a session sees of the relay of its guest. No method throws because of what the guest wrote. */
export interface RelayReader {
  /** Deliver what is there, and from now on what comes. */
  start(): void;
  /** A doorbell of this epoch came. Delivers, up to a slice of time, before it returns. */
  wake(): void;
  /** Should a doorbell have got lost: as `wake`, but nothing stays awake where nothing was read since the last look. */
  look(): void;
  /** Deliver all that is published now. */
  drain(): void;
  /** Of a guest that is over: the records that it wrote but did not publish, each once. */
  drainBeyond(): void;
  /** Since the start of the epoch; after close() as they were then. */
  statistics(): RelayStatistics;
  /** What in header and directory is not as agreed, for people; empty: nothing. */
  verify(): readonly string[];
  /** What the guest wrote last as its heartbeat, in ns; exact below 2^53. Of a hostile guest any number. */
  heartbeatNs(): number;
  /** As NativeRegion.compareClocks; undefined also where it is closed. */
  compareClocks(limitNs: number): Promise<ClockAnswer | undefined>;
  /** Unmaps the region: after the return nothing of this process touches it. Idempotent. */
  close(): void;
}

export interface RelayFactory {
  /**
   * Maps the region and compares its header with what was agreed; goes on where the last reader of this epoch released.
   * Throws RELAY.
   */
  open(options: RelayOptions): RelayReader;
}

/** Records between two looks for broken rings in a stream that never pauses. */
const lookEvery = 100_000;
const smallestRecord = 32;
const faultAt = statisticsFields.indexOf('fault');
const overwrittenAt = statisticsFields.indexOf('overwritten');
/** Records that are enough to tell that there are some. */
const firstLook = 64;
const heartbeatAt = regionHeader.offsets.heartbeat_ns;
const heartbeatBytes = regionHeader.fields.heartbeat_ns.size;
const nothing: readonly string[] = [];

export class Relay implements RelayReader {
  readonly region: NativeRegion;
  readonly #hub: RelayHub;
  readonly #options: RelayOptions;
  readonly #raw: Float64Array;
  readonly #quarantined = new Set<number>();
  /** Header and directory, without the heartbeat, as they are and as they were when nothing in them was wrong. */
  readonly #header: Buffer;
  #agreed: Buffer | undefined;
  readonly #heartbeat = new DataView(new ArrayBuffer(heartbeatBytes));
  readonly #heartbeatBytes = new Uint8Array(this.#heartbeat.buffer);
  readonly #overwritten = new Set<number>();
  #last: readonly RingStatistics[] = [];
  #batches = 0;
  #handlerErrors = 0;
  #sinceLook = 0;
  #taken = 0;
  #takenAtLook = 0;

  constructor(hub: RelayHub, options: RelayOptions) {
    const { path, ram, layout, epoch } = options;
    this.#hub = hub;
    this.#options = options;
    this.#raw = new Float64Array(layout.rings.length * statisticsPerRing);
    this.#header = Buffer.alloc(layout.headerBytes);
    try {
      this.region = new hub.addon.Region(ram?.fd ?? path, {
        pieces: ram?.pieces,
        bytes: layout.regionBytes,
        epoch,
        rings: layout.rings,
        resume: true,
      });
    } catch (cause) {
      throw new VesperError('RELAY', `the relay region ${path} cannot be mapped: ${messageOf(cause)}`, {
        cause,
        data: { path, bytes: layout.regionBytes },
      });
    }
    const differences = this.verify();
    if (differences.length > 0) {
      this.region.close();
      throw new VesperError(
        'RELAY',
        `the guest laid out the relay region ${path} otherwise than agreed: ${differences[0]}`,
        {
          data: { path, differences },
        },
      );
    }
  }

  start(): void {
    this.#hub.add(this);
    this.#hub.wake(this);
  }

  wake(): void {
    this.#hub.wake(this);
  }

  look(): void {
    this.#hub.withBatch((batch) => this.turn(batch, firstLook));
    if (this.#taken === this.#takenAtLook) return;
    this.#takenAtLook = this.#taken;
    // The guest rings once and then trusts in being looked at: awake and to sleep again, so that it rings anew.
    this.#hub.wake(this);
  }

  drain(): void {
    // A guest that goes on writing does not keep us here: at most as many records as the rings can hold.
    let left = this.#options.layout.regionBytes / smallestRecord;
    this.#hub.withBatch((batch) => {
      let taken = 1;
      while (left > 0 && taken > 0) {
        taken = this.turn(batch, this.#hub.batchRecords);
        left -= taken;
      }
    });
  }

  drainBeyond(): void {
    this.#hub.withBatch((batch) => {
      while (!this.region.closed) {
        batch.count = this.region.beyond(batch.native);
        if (batch.count === 0) return;
        this.#deliver(batch);
      }
    });
  }

  /** For the hub: drains, delivers, releases. */
  turn(batch: RelayBatch, limit: number): number {
    if (this.region.closed) return 0;
    const count = this.region.drain(batch.native, limit);
    batch.count = count;
    if (count > 0) {
      this.#deliver(batch);
      // The handler may have closed the relay.
      if (!this.region.closed) {
        this.region.release();
        this.#options.onRelease?.();
      }
    }
    this.#taken += count;
    this.#sinceLook += count;
    if (count === 0 || this.#sinceLook > lookEvery) this.#lookForBrokenRings();
    return count;
  }

  statistics(): RelayStatistics {
    const perRing = this.#rings();
    return {
      ...lossReport(perRing),
      rings: perRing.length,
      perRing,
      batches: this.#batches,
      handlerErrors: this.#handlerErrors,
    };
  }

  verify(): readonly string[] {
    if (this.region.closed) return nothing;
    this.region.readInto(0, this.#header);
    this.#header.fill(0, heartbeatAt, heartbeatAt + heartbeatBytes);
    if (this.#agreed?.equals(this.#header) === true) return nothing;
    const { layout, epoch, token } = this.#options;
    const differences = differencesOf(this.#header, { layout, epoch, token });
    if (differences.length === 0) this.#agreed = Buffer.from(this.#header);
    return differences;
  }

  heartbeatNs(): number {
    if (!this.region.closed) this.region.readInto(heartbeatAt, this.#heartbeatBytes);
    return this.#heartbeat.getUint32(4, true) * 2 ** 32 + this.#heartbeat.getUint32(0, true);
  }

  async compareClocks(limitNs: number): Promise<ClockAnswer | undefined> {
    return this.region.closed ? undefined : this.region.compareClocks(limitNs);
  }

  close(): void {
    if (this.region.closed) return;
    this.#rings();
    this.#hub.remove(this);
    this.region.close();
  }

  #deliver(batch: RelayBatch): void {
    this.#batches++;
    try {
      this.#options.onBatch(batch);
    } catch (error) {
      this.#handlerErrors++;
      this.#options.onHandlerError?.(error);
    }
  }

  #rings(): readonly RingStatistics[] {
    if (!this.region.closed) {
      this.region.statistics(this.#raw);
      this.#last = namedStatistics(this.#raw, this.#options.layout.rings);
    }
    return this.#last;
  }

  #lookForBrokenRings(): void {
    this.#sinceLook = 0;
    if (this.region.closed) return;
    const { layout, onQuarantine, onOverwrite } = this.#options;
    this.region.reclaim();
    this.region.statistics(this.#raw);
    for (let index = 0; index < layout.rings.length; index++) {
      const at = index * statisticsPerRing;
      if (this.#raw[at + faultAt] !== 0) this.#tell(index, this.#quarantined, onQuarantine);
      if (this.#raw[at + overwrittenAt] !== 0) this.#tell(index, this.#overwritten, onOverwrite);
    }
  }

  /** Once: a guest can do it again as often as it likes. */
  #tell(index: number, told: Set<number>, listener: ((ring: RingStatistics) => void) | undefined): void {
    if (told.has(index)) return;
    told.add(index);
    const ring = this.#rings()[index];
    if (ring !== undefined) listener?.(ring);
  }
}
