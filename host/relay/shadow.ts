// SPDX-License-Identifier: Apache-2.0

/**
 * Rings whose records come over the channel. The host keeps a file that is laid out as the region of a guest with shared memory, puts in
 * what the guest sends, and has it read as any other region: everything that judges, counts, resumes and salvages is the same. What
 * the guest sends is not judged here: where it has no place nothing is written but the head it claims, and the reader finds the ring
 * broken.
 */

import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import type { PayloadOf } from '../wire/message.ts';
import {
  directoryOffset,
  layoutVersion,
  pageBytes,
  recordAlignment,
  regionHeader,
  regionMagic,
  regionStates,
  ringBlock,
  ringBlockBytes,
  ringEntry,
  ringKinds,
} from '../wire/region.ts';
import { encode, encodeInto } from '../wire/struct.ts';
import type { RegionLayout } from './layout.ts';

export interface ShadowOptions {
  /** The region's file. */
  readonly path: string;
  readonly token: Uint8Array;
  readonly bootId: Uint8Array;
  readonly layout: RegionLayout;
  readonly epoch: bigint;
  /** What is in the file is kept. */
  readonly resume: boolean;
}

export type Records = PayloadOf<'records'>;
export type Consumed = Pick<PayloadOf<'consumed'>, 'epoch' | 'ring' | 'tail'>;

const { head: headAt, tail: tailAt } = ringBlock.offsets;
const producerBytes = ringBlock.offsets.producer_reserved;

export class ShadowRegion {
  readonly #fd: number;
  readonly #layout: RegionLayout;
  readonly #epoch: bigint;
  readonly #heads: bigint[];
  /** As the guest was told; undefined: not yet. */
  readonly #told: (bigint | undefined)[];
  readonly #producer = Buffer.alloc(producerBytes);
  readonly #blocks: Buffer;
  #closed = false;

  /** Lays the rings out unless they are kept. Throws as `fs` does. */
  constructor({ path, token, bootId, layout, epoch, resume }: ShadowOptions) {
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
    this.#layout = layout;
    this.#epoch = epoch;
    this.#blocks = Buffer.alloc(layout.rings.length * ringBlockBytes);
    this.#told = layout.rings.map(() => undefined);
    try {
      if (!resume) this.#layOut(token, bootId);
      this.#readBlocks();
    } catch (thrown) {
      closeSync(this.#fd);
      throw thrown;
    }
    this.#heads = layout.rings.map((_, ring) => this.#blocks.readBigUInt64LE(ring * ringBlockBytes + headAt));
  }

  /** Take what the guest sent; false: it is of other rings. */
  take({ epoch, ring: index, position, attempts, lost }: Records, data: Uint8Array): boolean {
    const ring = this.#layout.rings[index];
    if (ring === undefined || epoch !== this.#epoch || this.#closed) return false;
    const end = position + BigInt(data.length);
    const known = this.#heads[index] ?? 0n;
    // A session that resumes is sent again what the one before was sent.
    if (end > known) {
      const at = Number(position % BigInt(ring.dataBytes));
      const placeable = at % recordAlignment === 0 && at + data.length <= ring.dataBytes;
      if (placeable && data.length > 0) writeSync(this.#fd, data, 0, data.length, ring.dataOffset + at);
      this.#heads[index] = end;
    }
    this.#producer.writeBigUInt64LE(BigInt.asUintN(64, this.#heads[index] ?? 0n), headAt);
    this.#producer.writeBigUInt64LE(attempts, ringBlock.offsets.attempts);
    this.#producer.writeBigUInt64LE(lost, ringBlock.offsets.lost);
    writeSync(this.#fd, this.#producer, 0, producerBytes, ring.blockOffset);
    return true;
  }

  /** How far the reader released, of rings where the guest was told less. */
  consumed(): Consumed[] {
    if (this.#closed) return [];
    this.#readBlocks();
    return this.#layout.rings.flatMap((_, ring) => {
      const tail = this.#blocks.readBigUInt64LE(ring * ringBlockBytes + tailAt);
      if (this.#told[ring] === tail) return [];
      this.#told[ring] = tail;
      return [{ epoch: this.#epoch, ring, tail }];
    });
  }

  /** Idempotent; the file stays. */
  close(): void {
    if (!this.#closed) closeSync(this.#fd);
    this.#closed = true;
  }

  #readBlocks(): void {
    readSync(this.#fd, this.#blocks, 0, this.#blocks.length, this.#layout.headerBytes);
  }

  /** As the frontend lays out a region. */
  #layOut(token: Uint8Array, bootId: Uint8Array): void {
    const { headerBytes, regionBytes, rings, cpuCount } = this.#layout;
    const blockBytes = Math.ceil((rings.length * ringBlockBytes) / pageBytes) * pageBytes;
    const raw = new Uint8Array(headerBytes + blockBytes);
    const header = {
      magic: regionMagic,
      layout_version: layoutVersion,
      region_bytes: BigInt(regionBytes),
      token,
      epoch: this.#epoch,
      boot_id: bootId,
      header_bytes: headerBytes,
      ring_count: rings.length,
      cpu_count: cpuCount,
      state: regionStates.ACTIVE.value,
    };
    raw.set(encode(regionHeader, header));
    for (const [index, ring] of rings.entries()) {
      const entry = {
        block_offset: BigInt(ring.blockOffset),
        data_offset: BigInt(ring.dataOffset),
        data_bytes: ring.dataBytes,
        cpu: ring.cpu,
        kind: ring.critical ? ringKinds.CRITICAL.value : ringKinds.OTHER.value,
      };
      encodeInto(ringEntry, entry, raw, directoryOffset + index * ringEntry.size);
    }
    writeSync(this.#fd, raw, 0, raw.length, 0);
  }
}
