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

/** Rows 0 … count-1 are valid, until the handler that got the batch returns; a RowRing is for who wants to keep them. */
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
}

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
