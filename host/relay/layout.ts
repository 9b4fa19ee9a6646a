// SPDX-License-Identifier: Apache-2.0

/**
 * Where the rings of a region lie. The host computes it alone from numbers it chose itself; what the guest wrote into
 * header and directory is only ever compared with it.
 */

import { VesperError } from '../error.ts';
import {
  directoryOffset,
  layoutVersion,
  pageBytes,
  regionConstants,
  regionHeader,
  regionMagic,
  regionStates,
  ringBlockBytes,
  ringEntry,
  ringKinds,
} from '../wire/region.ts';
import { decode } from '../wire/struct.ts';

/** Sizes of the two rings of each CPU. */
export interface RingSplit {
  /** Data bytes of each ring for critical events: a power of two. */
  readonly criticalRingBytes: number;
  /** Data bytes of each ring for other events: a power of two. */
  readonly ringBytes: number;
}

export interface RingLayout {
  readonly blockOffset: number;
  readonly dataOffset: number;
  readonly dataBytes: number;
  readonly cpu: number;
  readonly critical: boolean;
}

export interface RegionShape extends RingSplit {
  readonly regionBytes: number;
  readonly cpuCount: number;
}

export interface RegionLayout extends RegionShape {
  /** Header and directory; the control blocks follow. */
  readonly headerBytes: number;
  /** critical(cpu 0), other(cpu 0), critical(cpu 1), … */
  readonly rings: readonly RingLayout[];
}

const smallestRing = regionConstants.RING_MIN.value;
/** As the frontend has it. */
const largestRing = 1 << 30;

const upToPage = (bytes: number): number => Math.ceil(bytes / pageBytes) * pageBytes;
const isPowerOfTwo = (n: number): boolean => Number.isInteger(n) && n > 0 && Number.isInteger(Math.log2(n));

const headerBytesFor = (rings: number): number => upToPage(directoryOffset + ringEntry.size * rings);
const dataOffsetFor = (rings: number): number => headerBytesFor(rings) + upToPage(ringBlockBytes * rings);

/** So much for each CPU loses less than 1 % of the fastest storm; a guest with one CPU can place it behind any PCI Express root port. */
export const regionBytesPerCpu = 2 << 20;
const largestDefaultBytes = 16 << 20;

/** The size of a guest's region where none is configured: a power of two, at most `room` bytes or what one CPU gets. */
export function defaultRegionBytes(cpuCount: number, room = Number.POSITIVE_INFINITY): number {
  let bytes = regionBytesPerCpu;
  while (bytes < cpuCount * regionBytesPerCpu && 2 * bytes <= Math.min(room, largestDefaultBytes)) bytes *= 2;
  return bytes;
}

/**
 * Ring sizes for a region of `regionBytes` and a guest with `cpuCount` possible CPUs: the pair of powers of two that fits and
 * comes nearest to giving critical events `criticalShare` (0 … 1) of the room. Throws USAGE where the region is too small.
 */
export function splitRegion(regionBytes: number, cpuCount: number, criticalShare = 0.25): RingSplit {
  if (!(criticalShare > 0 && criticalShare < 1)) {
    throw new VesperError(
      'USAGE',
      `the share of critical events has to be between 0 and 1, not ${criticalShare}`,
    );
  }
  const room = Math.floor((regionBytes - dataOffsetFor(2 * cpuCount)) / cpuCount);
  let best: { sizes: RingSplit; shortfall: number; used: number } | undefined;
  for (let critical = smallestRing; critical <= Math.min(room, largestRing); critical *= 2) {
    for (let other = smallestRing; critical + other <= room && other <= largestRing; other *= 2) {
      // How much smaller than wished the worse off of the two is.
      const shortfall = Math.max((room * criticalShare) / critical, (room * (1 - criticalShare)) / other);
      const used = critical + other;
      if (
        best === undefined ||
        shortfall < best.shortfall ||
        (shortfall === best.shortfall && used > best.used)
      ) {
        best = { sizes: { criticalRingBytes: critical, ringBytes: other }, shortfall, used };
      }
    }
  }
  if (best === undefined) {
    const needed = dataOffsetFor(2 * cpuCount) + 2 * smallestRing * cpuCount;
    throw new VesperError(
      'USAGE',
      `a region of ${regionBytes} bytes is too small for ${cpuCount} CPUs: it needs at least ${needed}; configure a larger one`,
      { data: { regionBytes, cpuCount, needed } },
    );
  }
  return best.sizes;
}

/** The layout of a region. Throws RELAY where the rings do not fit or their sizes are impossible. */
export function regionLayout({
  regionBytes,
  cpuCount,
  criticalRingBytes,
  ringBytes,
}: RegionShape): RegionLayout {
  for (const size of [criticalRingBytes, ringBytes]) {
    if (!isPowerOfTwo(size) || size < smallestRing || size > largestRing) {
      throw new VesperError(
        'RELAY',
        `a ring of ${size} bytes is impossible: powers of two from ${smallestRing} on`,
      );
    }
  }
  if (!Number.isInteger(cpuCount) || cpuCount < 1 || cpuCount > 0x7fff) {
    throw new VesperError('RELAY', `a guest with ${cpuCount} CPUs is impossible`);
  }
  const headerBytes = headerBytesFor(2 * cpuCount);
  let dataOffset = dataOffsetFor(2 * cpuCount);
  const needed = dataOffset + cpuCount * (criticalRingBytes + ringBytes);
  if (needed > regionBytes) {
    throw new VesperError(
      'RELAY',
      `rings for ${cpuCount} CPUs need ${needed} bytes, the region has ${regionBytes}`,
    );
  }
  const rings: RingLayout[] = [];
  for (let index = 0; index < 2 * cpuCount; index++) {
    const critical = index % 2 === 0;
    const dataBytes = critical ? criticalRingBytes : ringBytes;
    rings.push({
      blockOffset: headerBytes + index * ringBlockBytes,
      dataOffset,
      dataBytes,
      cpu: index >> 1,
      critical,
    });
    dataOffset += dataBytes;
  }
  return { regionBytes, cpuCount, criticalRingBytes, ringBytes, headerBytes, rings };
}

/** What the header of a region of ours has to say, beside the layout. */
export interface ExpectedHeader {
  readonly layout: RegionLayout;
  readonly epoch: bigint;
  /** 16 bytes; undefined: not compared. */
  readonly token?: Uint8Array | undefined;
}

/**
 * Compares header and directory (the first `layout.headerBytes` of the region) with what they have to be. Returns what
 * differs, for people; empty: nothing.
 */
export function differencesOf(raw: Uint8Array, expected: ExpectedHeader): string[] {
  const { layout, epoch, token } = expected;
  const differences: string[] = [];
  const compare = (what: string, found: number | bigint, wanted: number | bigint): void => {
    if (BigInt(found) !== BigInt(wanted)) differences.push(`${what} is ${found}, not ${wanted}`);
  };
  const header = decode(regionHeader, raw);
  compare('magic', header.magic, regionMagic);
  compare('layout_version', header.layout_version, layoutVersion);
  compare('region_bytes', header.region_bytes, layout.regionBytes);
  compare('epoch', header.epoch, epoch);
  compare('header_bytes', header.header_bytes, layout.headerBytes);
  compare('ring_count', header.ring_count, layout.rings.length);
  compare('cpu_count', header.cpu_count, layout.cpuCount);
  if (header.state !== regionStates.ACTIVE.value && header.state !== regionStates.SEALED.value) {
    differences.push(`state is ${header.state}`);
  }
  if (token !== undefined && Buffer.compare(header.token, token) !== 0) differences.push('token is another');
  layout.rings.forEach((ring, index) => {
    const entry = decode(ringEntry, raw, directoryOffset + index * ringEntry.size);
    compare(`ring ${index}: block_offset`, entry.block_offset, ring.blockOffset);
    compare(`ring ${index}: data_offset`, entry.data_offset, ring.dataOffset);
    compare(`ring ${index}: data_bytes`, entry.data_bytes, ring.dataBytes);
    compare(`ring ${index}: cpu`, entry.cpu, ring.cpu);
    compare(
      `ring ${index}: kind`,
      entry.kind,
      ring.critical ? ringKinds.CRITICAL.value : ringKinds.OTHER.value,
    );
  });
  return differences;
}
