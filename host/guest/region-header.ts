// SPDX-License-Identifier: Apache-2.0

/** The header page of a region as a guest left it: enough to resume its rings or to read what is still in them. */

import { closeSync, openSync, readSync } from 'node:fs';
import { type RingSplit, regionLayout } from '../relay/layout.ts';
import { directoryOffset, regionHeader, regionMagic, regionStates, ringEntry } from '../wire/region.ts';
import { decode } from '../wire/struct.ts';
import { hexOf } from './incarnation.ts';

export interface LeftBehind {
  readonly epoch: bigint;
  readonly bootId: string;
  readonly cpuCount: number;
  readonly split: RingSplit;
}

/** Undefined where the region holds no rings, or what stands there is impossible: the guest wrote it. */
export function readRegionHeader(path: string, regionBytes: number): LeftBehind | undefined {
  const page = new Uint8Array(4096);
  const fd = openSync(path, 'r');
  try {
    if (readSync(fd, page, 0, page.length, 0) < page.length) return undefined;
  } finally {
    closeSync(fd);
  }
  const header = decode(regionHeader, page);
  if (header.magic !== regionMagic || header.state === regionStates.BLANK.value || header.epoch === 0n)
    return undefined;
  const [critical, other] = [0, 1].map((at) =>
    decode(ringEntry, page, directoryOffset + at * ringEntry.size),
  );
  if (critical === undefined || other === undefined) return undefined;
  const split = { criticalRingBytes: critical.data_bytes, ringBytes: other.data_bytes };
  try {
    regionLayout({ regionBytes, cpuCount: header.cpu_count, ...split });
  } catch {
    // Whatever is wrong with the numbers, these rings cannot be read: the caller counts and reports that.
    return undefined;
  }
  return { epoch: header.epoch, bootId: hexOf(header.boot_id), cpuCount: header.cpu_count, split };
}
