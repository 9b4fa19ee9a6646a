// SPDX-License-Identifier: Apache-2.0

/** A guest that writes nonsense into its region, in every place a reader looks at. */

import type { RegionLayout } from '../../host/relay/layout.ts';
import { recordHeader, ringBlock } from '../../host/wire/region.ts';
import type { RegionWriter, RingWriter } from './region-writer.ts';

/** Deterministic, so that a failing round can be run again: xorshift32. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 1;
  }
  next(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }
  below(limit: number): number {
    return this.next() % limit;
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}

/** Values that break readers. */
const positions = [
  0n,
  1n,
  4n,
  8n,
  64n,
  4088n,
  4096n,
  4104n,
  1n << 31n,
  1n << 32n,
  (1n << 53n) - 1n,
  1n << 63n,
  (1n << 64n) - 8n,
  (1n << 64n) - 1n,
];
const lengths = [
  0, 1, 7, 8, 31, 32, 33, 63, 65, 200, 400, 600, 800, 1000, 1016, 1024, 1025, 4096, 0x7fff_ffff, 0x8000_0000,
  0x8000_0008, 0x8000_0400, 0xffff_fff8, 0xffff_ffff,
];

export const corruptions = [
  'head',
  'tail',
  'counters',
  'tag',
  'length',
  'sequence',
  'directory',
  'data',
  'blocks',
  'anything',
] as const;
export type Corruption = (typeof corruptions)[number];

export function corrupt(
  writer: RegionWriter,
  random: Random,
  what: Corruption = random.pick(corruptions),
): Corruption {
  const { layout } = writer;
  const written = random.pick(writer.rings);
  const ring = written.layout;
  const near = BigInt(random.below(256)) * 8n;
  switch (what) {
    case 'head':
    case 'tail':
      writer.poke(
        ring.blockOffset + ringBlock.offsets[what],
        word64(random.pick([...positions, near, near + 4n])),
      );
      break;
    case 'counters':
      writer.poke(ring.blockOffset + ringBlock.offsets.attempts, word64(random.pick(positions)));
      writer.poke(ring.blockOffset + ringBlock.offsets.lost, word64(random.pick(positions)));
      writer.poke(ring.blockOffset + ringBlock.offsets.consumer_reserved, word64(random.pick(positions)));
      break;
    case 'tag':
      writer.poke(recordAt(written, random), word32(random.next()));
      break;
    case 'length':
      writer.poke(recordAt(written, random) + recordHeader.offsets.length, word32(random.pick(lengths)));
      break;
    case 'sequence':
      writer.poke(recordAt(written, random) + recordHeader.offsets.sequence, word64(random.pick(positions)));
      break;
    case 'directory':
      // Of the header page only the beginning says something.
      writer.poke(random.below(Math.min(320, layout.headerBytes)), noise(random, 1 + random.below(16)));
      break;
    case 'data':
      writer.poke(ring.dataOffset + random.below(ring.dataBytes - 64), noise(random, 1 + random.below(64)));
      break;
    case 'blocks':
      writer.poke(ring.blockOffset + random.below(192), noise(random, 1 + random.below(64)));
      break;
    case 'anything':
      writer.poke(random.below(layout.regionBytes - 4096), noise(random, 1 + random.below(4096)));
      break;
  }
  return what;
}

/** Header, directory and control blocks as the guest lays them out. */
export function pristineOf(writer: RegionWriter, layout: RegionLayout): Uint8Array {
  return writer.peek(0, layout.rings[0]?.dataOffset ?? layout.headerBytes);
}

/** Where in the file a record begins, of those that are still there. */
function recordAt(ring: RingWriter, random: Random): number {
  const newest = ring.written.filter((position) => position >= ring.head - ring.layout.dataBytes);
  return ring.at(newest.length === 0 ? ring.head : random.pick(newest));
}

function word32(value: number): Uint8Array {
  const raw = Buffer.alloc(4);
  raw.writeUInt32LE(value);
  return raw;
}

function word64(value: bigint): Uint8Array {
  const raw = Buffer.alloc(8);
  raw.writeBigUInt64LE(value);
  return raw;
}

function noise(random: Random, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, () => random.next());
}
