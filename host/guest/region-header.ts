// SPDX-License-Identifier: Apache-2.0

/** The header page of a region as a guest left it: enough to resume its rings or to read what is still in them. */

import { closeSync, openSync, readSync } from 'node:fs';
import { differencesOf, type RegionLayout, type RingSplit, regionLayout } from '../relay/layout.ts';
import {
  directoryOffset,
  pageBytes,
  regionHeader,
  regionMagic,
  regionStates,
  ringEntry,
} from '../wire/region.ts';
import { decode } from '../wire/struct.ts';
import { hexOf } from './incarnation.ts';

export interface LeftBehind {
  readonly epoch: bigint;
  readonly bootId: string;
  readonly cpuCount: number;
  readonly split: RingSplit;
  /** CLOCK_BOOTTIME when it was last seen alive; 0: never in this epoch. As everything the guest wrote, any number. */
  readonly heartbeatNs: bigint;
}

/** Undefined where the region holds no rings, or header and directory are not of one piece: the guest wrote them. */
export function readRegionHeader(path: string, regionBytes: number): LeftBehind | undefined {
  const page = readBeginning(path, pageBytes);
  if (page === undefined) return undefined;
  const header = decode(regionHeader, page);
  if (header.magic !== regionMagic || header.state === regionStates.BLANK.value || header.epoch === 0n)
    return undefined;
  const [critical, other] = [0, 1].map((at) =>
    decode(ringEntry, page, directoryOffset + at * ringEntry.size),
  );
  if (critical === undefined || other === undefined) return undefined;
  const split = { criticalRingBytes: critical.data_bytes, ringBytes: other.data_bytes };
  let layout: RegionLayout;
  try {
    layout = regionLayout({ regionBytes, cpuCount: header.cpu_count, ...split });
  } catch {
    // Whatever is wrong with the numbers, these rings cannot be read: the caller counts and reports that.
    return undefined;
  }
  // Such rings could not be opened, so they must not be resumed either.
  const whole = readBeginning(path, layout.headerBytes);
  if (whole === undefined || differencesOf(whole, { layout, epoch: header.epoch }).length > 0)
    return undefined;
  return {
    epoch: header.epoch,
    bootId: hexOf(header.boot_id),
    cpuCount: header.cpu_count,
    split,
    heartbeatNs: header.heartbeat_ns,
  };
}

function readBeginning(path: string, bytes: number): Uint8Array | undefined {
  const raw = new Uint8Array(bytes);
  const fd = openSync(path, 'r');
  try {
    return readSync(fd, raw, 0, bytes, 0) < bytes ? undefined : raw;
  } finally {
    closeSync(fd);
  }
}
