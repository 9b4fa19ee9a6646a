// SPDX-License-Identifier: Apache-2.0

/** Records as columns: one row each, payloads in an arena. */

import type { NativeBatch } from './native.ts';

/** What a decoder needs of a batch. */
export interface PayloadRows {
  /** Over `arena`. */
  readonly view: DataView;
  readonly arena: Uint8Array;
  readonly payloadOffset: Uint32Array;
  readonly payloadBytes: Uint32Array;
}

/** Rows 0 … count-1 are valid, until the handler that got the batch returns; `snapshot()` is for who wants to keep it. */
export class RelayBatch implements PayloadRows, NativeBatch {
  readonly slot: Uint16Array;
  readonly event: Uint16Array;
  readonly cpu: Uint16Array;
  /** Index of the ring in the layout: even ones hold critical events. */
  readonly ring: Uint16Array;
  /** CLOCK_BOOTTIME of the guest in nanoseconds; exact below 2^53 (104 days of uptime), to 2 ns below 2^54. */
  readonly timeNs: Float64Array;
  /** Number of the record in its ring and epoch: a record that is delivered again keeps it. */
  readonly sequence: Float64Array;
  /** In `arena`, a multiple of 8. */
  readonly payloadOffset: Uint32Array;
  readonly payloadBytes: Uint32Array;
  readonly arena: Uint8Array;
  readonly view: DataView;
  /** What the drain was made with: handed to it again. */
  readonly native: NativeBatch;
  count: number;

  constructor(native: NativeBatch, count = 0) {
    this.native = native;
    this.slot = native.slot;
    this.event = native.event;
    this.cpu = native.cpu;
    this.ring = native.ring;
    this.timeNs = native.timeNs;
    this.sequence = native.sequence;
    this.payloadOffset = native.payloadOffset;
    this.payloadBytes = native.payloadBytes;
    this.arena = native.arena;
    this.view = new DataView(native.arena.buffer, native.arena.byteOffset, native.arena.byteLength);
    this.count = count;
  }

  /** The payload of a row, not copied. */
  payload(row: number): Uint8Array {
    const from = this.payloadOffset[row] ?? 0;
    return this.arena.subarray(from, from + (this.payloadBytes[row] ?? 0));
  }

  /** Bytes of memory its columns and arena take. */
  get byteLength(): number {
    return this.arena.byteLength + this.slot.length * bytesPerRow;
  }

  /** A copy of the valid rows, in one allocation. */
  snapshot(): RelayBatch {
    const { count } = this;
    let arenaBytes = 0;
    for (let row = 0; row < count; row++) arenaBytes += upTo8(this.payloadBytes[row] as number);
    const buffer = new ArrayBuffer(count * bytesPerRow + arenaBytes);
    let at = 0;
    const column = <T extends Float64Array | Uint32Array | Uint16Array>(
      make: new (buffer: ArrayBuffer, offset: number, length: number) => T,
      from: T,
    ): T => {
      const copy = new make(buffer, at, count);
      copy.set(from.subarray(0, count));
      at += copy.byteLength;
      return copy;
    };
    const timeNs = column(Float64Array, this.timeNs);
    const sequence = column(Float64Array, this.sequence);
    const arena = new Uint8Array(buffer, at, arenaBytes);
    at += arenaBytes;
    const payloadOffset = column(Uint32Array, this.payloadOffset);
    const payloadBytes = column(Uint32Array, this.payloadBytes);
    const slot = column(Uint16Array, this.slot);
    const event = column(Uint16Array, this.event);
    const cpu = column(Uint16Array, this.cpu);
    const ring = column(Uint16Array, this.ring);
    let end = 0;
    for (let row = 0; row < count; row++) {
      arena.set(this.payload(row), end);
      payloadOffset[row] = end;
      end += upTo8(payloadBytes[row] as number);
    }
    return new RelayBatch(
      { slot, event, cpu, ring, timeNs, sequence, payloadOffset, payloadBytes, arena },
      count,
    );
  }
}

const bytesPerRow = 2 * 8 + 2 * 4 + 4 * 2;
const upTo8 = (bytes: number): number => (bytes + 7) & ~7;

const nothing = {
  slot: new Uint16Array(0),
  event: new Uint16Array(0),
  cpu: new Uint16Array(0),
  ring: new Uint16Array(0),
  timeNs: new Float64Array(0),
  sequence: new Float64Array(0),
  payloadOffset: new Uint32Array(0),
  payloadBytes: new Uint32Array(0),
  arena: new Uint8Array(0),
};

/** A batch without rows. */
export const emptyBatch: RelayBatch = new RelayBatch(nothing);
