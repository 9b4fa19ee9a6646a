// SPDX-License-Identifier: Apache-2.0

/**
 * A guest's side of a shared region, in TypeScript: lays rings out in a file and writes records as vesper.ko does. It goes
 * through the file, not a mapping; both see the same pages.
 */

import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import type { RegionLayout, RingLayout } from '../../host/relay/layout.ts';
import {
  directoryOffset,
  layoutVersion,
  recordHeader,
  regionConstants,
  regionHeader,
  regionMagic,
  regionStates,
  ringBlock,
  ringEntry,
  ringKinds,
} from '../../host/wire/region.ts';
import { encode, encodeInto } from '../../host/wire/struct.ts';

export interface RecordOptions {
  readonly slot?: number;
  readonly event?: number;
  readonly timeNs?: bigint;
  /** Default: 32 bytes, the sequence number first. */
  readonly payload?: Uint8Array;
  /** Default: in the order of the reservations. */
  readonly sequence?: number;
}

const pad = regionConstants.RECORD_PAD.value;
const align = (bytes: number): number => (bytes + 7) & ~7;

export class RegionWriter {
  readonly layout: RegionLayout;
  readonly epoch: bigint;
  readonly rings: readonly RingWriter[];
  readonly fd: number;

  /** Lays out the region of an epoch, as at `activate`; `resume` goes on with the rings as they are in the file. */
  constructor(
    path: string,
    layout: RegionLayout,
    epoch: bigint,
    options: { token?: Uint8Array; resume?: boolean } = {},
  ) {
    this.layout = layout;
    this.epoch = epoch;
    this.fd = openSync(path, options.resume === true ? 'r+' : 'w+', 0o600);
    if (options.resume !== true) {
      ftruncateSync(this.fd, layout.regionBytes);
      const header = new Uint8Array(layout.headerBytes);
      encodeInto(
        regionHeader,
        {
          magic: regionMagic,
          layout_version: layoutVersion,
          region_bytes: BigInt(layout.regionBytes),
          token: options.token ?? new Uint8Array(16),
          epoch,
          header_bytes: layout.headerBytes,
          ring_count: layout.rings.length,
          cpu_count: layout.cpuCount,
          state: regionStates.ACTIVE.value,
        },
        header,
      );
      layout.rings.forEach((ring, index) => {
        encodeInto(
          ringEntry,
          {
            block_offset: BigInt(ring.blockOffset),
            data_offset: BigInt(ring.dataOffset),
            data_bytes: ring.dataBytes,
            cpu: ring.cpu,
            kind: ring.critical ? ringKinds.CRITICAL.value : ringKinds.OTHER.value,
          },
          header,
          directoryOffset + index * ringEntry.size,
        );
      });
      this.poke(0, header);
    }
    this.rings = layout.rings.map((ring) => new RingWriter(this, ring));
  }

  ring(index: number): RingWriter {
    const ring = this.rings[index];
    if (ring === undefined) throw new RangeError(`no ring ${index}`);
    return ring;
  }

  /** Overwrite bytes of the region. */
  poke(offset: number, bytes: Uint8Array): void {
    writeSync(this.fd, bytes, 0, bytes.length, offset);
  }

  peek(offset: number, bytes: number): Buffer {
    const raw = Buffer.alloc(bytes);
    readSync(this.fd, raw, 0, bytes, offset);
    return raw;
  }

  close(): void {
    closeSync(this.fd);
  }
}

/** A record between reserve and commit. */
export interface OpenRecord {
  readonly position: number;
  readonly sequence: number;
  commit(): void;
}

export class RingWriter {
  readonly layout: RingLayout;
  readonly #region: RegionWriter;
  readonly #word = Buffer.alloc(8);
  #reserved: number;
  #head: number;
  #nesting = 0;
  attempts: number;
  lost: number;
  /** Positions of the records written by this writer. */
  readonly written: number[] = [];

  constructor(region: RegionWriter, layout: RingLayout) {
    this.#region = region;
    this.layout = layout;
    this.#head = this.#reserved = this.#read('head');
    this.attempts = this.#read('attempts');
    this.lost = this.#read('lost');
  }

  get head(): number {
    return this.#head;
  }

  get tail(): number {
    return this.#read('tail');
  }

  get needWakeup(): boolean {
    return this.#region.peek(this.#field('need_wakeup'), 4).readUInt32LE() === 1;
  }

  /** As the guest does before it sends a doorbell. */
  clearNeedWakeup(): void {
    this.#region.poke(this.#field('need_wakeup'), new Uint8Array(4));
  }

  /** Writes one record, or counts it as lost where the ring is full. */
  write(options: RecordOptions = {}): boolean {
    const open = this.reserve(options);
    open?.commit();
    return open !== undefined;
  }

  /**
   * Reserves and fills a record; `commit` writes its tag, and the outermost one publishes. What is reserved in between is
   * nested, like the record of an interrupt.
   */
  reserve({
    slot = 1,
    event = 1,
    timeNs,
    payload,
    sequence = this.attempts,
  }: RecordOptions = {}): OpenRecord | undefined {
    this.attempts++;
    this.#store('attempts', this.attempts);
    const body = payload ?? Buffer.alloc(32);
    if (payload === undefined)
      new DataView(body.buffer, body.byteOffset).setBigUint64(0, BigInt(sequence), true);
    const length = recordHeader.size + body.length;
    const size = this.layout.dataBytes;
    const toEnd = size - (this.#reserved % size);
    const padding = toEnd < align(length) ? toEnd : 0;
    if (this.#reserved + padding + align(length) - this.tail > size) {
      this.lost++;
      this.#store('lost', this.lost);
      return undefined;
    }
    if (padding > 0) this.#writePadding(padding);
    const position = this.#reserved;
    this.#reserved += align(length);
    this.#nesting++;
    this.written.push(position);
    const raw = new Uint8Array(align(length));
    raw.set(
      encode(recordHeader, {
        length,
        slot,
        event,
        cpu: this.layout.cpu,
        time_ns: timeNs ?? BigInt(sequence) * 1000n,
        sequence: BigInt(sequence),
      }),
    );
    raw.set(body, recordHeader.size);
    // All but the tag, so that a tag of an older lap stays until the commit.
    this.#region.poke(this.at(position) + 4, raw.subarray(4));
    return { position, sequence, commit: () => this.#commit(position) };
  }

  /** Where in the file a position lies. */
  at(position: number): number {
    return this.layout.dataOffset + (position % this.layout.dataBytes);
  }

  tag(position: number): number {
    return Number(BigInt.asUintN(32, (BigInt(position) >> 3n) ^ this.#region.epoch));
  }

  /** Store a head that is not what was written. */
  forgeHead(head: bigint): void {
    this.#word.writeBigUInt64LE(head);
    this.#region.poke(this.#field('head'), this.#word);
  }

  #commit(position: number): void {
    this.#word.writeUInt32LE(this.tag(position));
    this.#region.poke(this.at(position), this.#word.subarray(0, 4));
    if (--this.#nesting > 0) return;
    this.#head = this.#reserved;
    this.#store('head', this.#head);
  }

  #writePadding(bytes: number): void {
    this.#word.writeUInt32LE(this.tag(this.#reserved));
    this.#word.writeUInt32LE((pad | bytes) >>> 0, 4);
    this.#region.poke(this.at(this.#reserved), this.#word);
    this.#reserved += bytes;
  }

  #field(name: keyof typeof ringBlock.offsets): number {
    return this.layout.blockOffset + ringBlock.offsets[name];
  }

  #read(name: 'head' | 'attempts' | 'lost' | 'tail'): number {
    return Number(this.#region.peek(this.#field(name), 8).readBigUInt64LE());
  }

  #store(name: 'head' | 'attempts' | 'lost', value: number): void {
    this.#word.writeBigUInt64LE(BigInt(value));
    this.#region.poke(this.#field(name), this.#word);
  }
}
