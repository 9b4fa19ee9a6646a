// SPDX-License-Identifier: Apache-2.0

/**
 * From the bytes of a row's label fields to what is counted for them, without making anything: an open hash table over the fields
 * as words. Text ends at its NUL, so that what a guest leaves behind it makes no difference.
 */

import { randomBytes } from 'node:crypto';
import type { FieldDeclaration } from '../../probe/declaration.ts';
import type { PayloadRows } from '../../relay/batch.ts';

const kinds = { byte: 1, half: 2, word: 3, text: 4 } as const;

/** A guest that knew the hash could make all its labels meet in one place. */
const seed = randomBytes(4).readUInt32LE();

export class LabelTable<T extends object> {
  readonly #kinds: Uint8Array;
  readonly #offsets: Uint32Array;
  readonly #sizes: Uint32Array;
  /** Words of a key. */
  readonly #width: number;
  /** That of the row that is looked for. */
  readonly #key: Uint32Array;
  readonly #keys: Uint32Array;
  readonly #values: T[] = [];
  /** Number of an entry and one more; 0: free. At most half are taken. */
  readonly #places: Uint32Array;
  readonly #mask: number;
  readonly #limit: number;
  readonly #make: (rows: PayloadRows, row: number) => T;
  readonly #overflow: T;

  /** `make` is asked for each key that is new; when there are `limit` of them, new ones are given `overflow`. */
  constructor(
    fields: readonly FieldDeclaration[],
    limit: number,
    make: (rows: PayloadRows, row: number) => T,
    overflow: T,
  ) {
    const parts = fields.flatMap(partsOf);
    this.#kinds = Uint8Array.from(parts, ({ kind }) => kind);
    this.#offsets = Uint32Array.from(parts, ({ offset }) => offset);
    this.#sizes = Uint32Array.from(parts, ({ size }) => size);
    this.#width = parts.reduce((words, { size }) => words + wordsOf(size), 0);
    this.#key = new Uint32Array(this.#width);
    this.#keys = new Uint32Array(this.#width * limit);
    const places = 1 << (32 - Math.clz32(2 * limit - 1));
    this.#places = new Uint32Array(places);
    this.#mask = places - 1;
    this.#limit = limit;
    this.#make = make;
    this.#overflow = overflow;
  }

  at(rows: PayloadRows, row: number): T {
    let place = this.#read(rows, row) & this.#mask;
    for (;;) {
      const entry = this.#places[place] as number;
      if (entry === 0) return this.#enter(place, rows, row);
      if (this.#matches(entry - 1)) return this.#values[entry - 1] as T;
      place = (place + 1) & this.#mask;
    }
  }

  #enter(place: number, rows: PayloadRows, row: number): T {
    if (this.#values.length >= this.#limit) return this.#overflow;
    const value = this.#make(rows, row);
    this.#keys.set(this.#key, this.#values.length * this.#width);
    this.#values.push(value);
    this.#places[place] = this.#values.length;
    return value;
  }

  #matches(entry: number): boolean {
    const from = entry * this.#width;
    for (let word = 0; word < this.#width; word += 1)
      if (this.#keys[from + word] !== this.#key[word]) return false;
    return true;
  }

  /** Puts the key of a row into `#key`, and returns its hash. */
  #read({ view, payloadOffset }: PayloadRows, row: number): number {
    const key = this.#key;
    const base = payloadOffset[row] as number;
    let at = 0;
    for (let part = 0; part < this.#kinds.length; part += 1) {
      const offset = base + (this.#offsets[part] as number);
      switch (this.#kinds[part]) {
        case kinds.byte:
          key[at++] = view.getUint8(offset);
          break;
        case kinds.half:
          key[at++] = view.getUint16(offset, true);
          break;
        case kinds.word:
          key[at++] = view.getUint32(offset, true);
          break;
        default:
          at = readText(view, offset, this.#sizes[part] as number, key, at);
      }
    }
    let hash = seed;
    for (let word = 0; word < key.length; word += 1) {
      hash = Math.imul(hash ^ (key[word] as number), 0x9e37_79b1);
      hash ^= hash >>> 15;
    }
    return hash >>> 0;
  }
}

interface Part {
  readonly kind: number;
  readonly offset: number;
  /** In bytes. */
  readonly size: number;
}

const wordsOf = (bytes: number): number => (bytes + 3) >> 2;

function partsOf({ type, offset, size }: FieldDeclaration): readonly Part[] {
  if (type === 'text') return [{ kind: kinds.text, offset, size }];
  if (size === 8)
    return [
      { kind: kinds.word, offset, size: 4 },
      { kind: kinds.word, offset: offset + 4, size: 4 },
    ];
  return [{ kind: size === 1 ? kinds.byte : size === 2 ? kinds.half : kinds.word, offset, size }];
}

/** Returns where the next part begins. */
function readText(view: DataView, from: number, size: number, key: Uint32Array, at: number): number {
  const end = at + wordsOf(size);
  key.fill(0, at, end);
  for (let byte = 0; byte < size; byte += 1) {
    const code = view.getUint8(from + byte);
    if (code === 0) break;
    key[at + (byte >> 2)] = (key[at + (byte >> 2)] as number) | (code << ((byte & 3) * 8));
  }
  return end;
}
