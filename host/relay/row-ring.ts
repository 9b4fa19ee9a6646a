// SPDX-License-Identifier: Apache-2.0

/**
 * Copies of batches in one piece of memory that is written round and round: the newest overwrite the oldest. Each column is copied as
 * a whole and nothing is allocated for it, so that keeping a storm makes no garbage: its collection would stop the reader, and
 * what cannot be read in time is lost.
 */

import { RelayBatch } from './batch.ts';

/** Where the rows of one batch are. */
export interface KeptRows {
  /** Of the first byte, counted from the first ever written. */
  readonly position: number;
  readonly count: number;
  /** Payload of the first row in the arena that was copied. */
  readonly arenaFrom: number;
  readonly arenaBytes: number;
}

const bytesPerRow = 2 * 8 + 2 * 4 + 4 * 2;
const upTo8 = (bytes: number): number => (bytes + 7) & ~7;

export class RowRing {
  readonly #bytes: number;
  readonly #buffer: ArrayBuffer;
  readonly #doubles: Float64Array;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #octets: Uint8Array;
  /** Where the next byte is written. */
  #end = 0;

  /** `bytes` is a multiple of 8. The system gives its pages only as they are written. */
  constructor(bytes: number) {
    this.#bytes = bytes;
    this.#buffer = new ArrayBuffer(bytes);
    this.#doubles = new Float64Array(this.#buffer);
    this.#words = new Uint32Array(this.#buffer);
    this.#halves = new Uint16Array(this.#buffer);
    this.#octets = new Uint8Array(this.#buffer);
  }

  /** Copies the rows of a batch; of one that is larger than all of this, nothing is kept. */
  append(batch: RelayBatch): KeptRows {
    const { count } = batch;
    const last = count - 1;
    // Payloads lie in the arena in the order of their rows; what is between them is copied too: one copy, not one a row.
    const arenaFrom = count > 0 ? (batch.payloadOffset[0] as number) : 0;
    const arenaTo =
      count > 0 ? (batch.payloadOffset[last] as number) + (batch.payloadBytes[last] as number) : 0;
    const rows = {
      position: this.#place(upTo8(count * bytesPerRow + arenaTo - arenaFrom)),
      count,
      arenaFrom,
      arenaBytes: arenaTo - arenaFrom,
    };
    if (!this.holds(rows)) return rows;
    let at = rows.position % this.#bytes;
    const copy = <T extends Float64Array | Uint32Array | Uint16Array>(to: T, from: T): void => {
      to.set(from.subarray(0, count), at / to.BYTES_PER_ELEMENT);
      at += count * to.BYTES_PER_ELEMENT;
    };
    copy(this.#doubles, batch.timeNs);
    copy(this.#doubles, batch.sequence);
    copy(this.#words, batch.payloadOffset);
    copy(this.#words, batch.payloadBytes);
    copy(this.#halves, batch.slot);
    copy(this.#halves, batch.event);
    copy(this.#halves, batch.cpu);
    copy(this.#halves, batch.ring);
    this.#octets.set(batch.arena.subarray(arenaFrom, arenaTo), at);
    return rows;
  }

  /** Whether the rows are still as they were. */
  holds(rows: KeptRows): boolean {
    return rows.position >= this.#end - this.#bytes;
  }

  /** The rows, where they are: valid until the next `append`. Throws where they were overwritten. */
  read(rows: KeptRows): RelayBatch {
    if (!this.holds(rows)) throw new RangeError(`rows at ${rows.position} were overwritten`);
    const { count, arenaFrom, arenaBytes } = rows;
    const buffer = this.#buffer;
    let at = rows.position % this.#bytes;
    const column = <T extends Float64Array | Uint32Array | Uint16Array>(
      make: new (buffer: ArrayBuffer, offset: number, length: number) => T,
    ): T => {
      const view = new make(buffer, at, count);
      at += view.byteLength;
      return view;
    };
    const timeNs = column(Float64Array);
    const sequence = column(Float64Array);
    const payloadOffset = column(Uint32Array).map((offset) => offset - arenaFrom);
    const payloadBytes = column(Uint32Array);
    const slot = column(Uint16Array);
    const event = column(Uint16Array);
    const cpu = column(Uint16Array);
    const ring = column(Uint16Array);
    const arena = new Uint8Array(buffer, at, arenaBytes);
    return new RelayBatch(
      { slot, event, cpu, ring, timeNs, sequence, payloadOffset, payloadBytes, arena },
      count,
    );
  }

  /** Takes room for so many bytes in one piece, and returns its position. */
  #place(bytes: number): number {
    const toEnd = this.#bytes - (this.#end % this.#bytes);
    const position = bytes > toEnd ? this.#end + toEnd : this.#end;
    this.#end = position + bytes;
    return position;
  }
}
