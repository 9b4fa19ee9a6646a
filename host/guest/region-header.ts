// SPDX-License-Identifier: Apache-2.0

/** The header page of a region as a guest left it: enough to resume its rings or to read what is still in them. */

import { closeSync, existsSync, openSync, readSync, writeSync } from 'node:fs';
import type { ProvidedRegion } from '../provider/provider.ts';
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
export function readRegionHeader(region: ProvidedRegion): LeftBehind | undefined {
  const { bytes: regionBytes } = region;
  const page = readBeginning(region, pageBytes);
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
  const whole = readBeginning(region, layout.headerBytes);
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

/**
 * The guest that wrote it is over and all of it was read: nobody finds rings in it from now on. Nothing where the region's file
 * is gone, or is the guest's own memory.
 */
export function markRead({ path, ram }: ProvidedRegion): void {
  if (ram !== undefined || !existsSync(path)) return;
  const { state } = regionHeader.offsets;
  const blank = Buffer.alloc(regionHeader.fields.state.size);
  blank.writeUInt32LE(regionStates.BLANK.value);
  const fd = openSync(path, 'r+');
  try {
    writeSync(fd, blank, 0, blank.length, state);
  } finally {
    closeSync(fd);
  }
}

/** The first bytes of a region; undefined where it is shorter. */
export function readBeginning({ path, ram }: ProvidedRegion, bytes: number): Uint8Array | undefined {
  const raw = new Uint8Array(bytes);
  if (ram !== undefined) {
    let at = 0;
    for (const piece of ram.pieces) {
      const part = Math.min(piece.bytes, bytes - at);
      if (part > 0 && readSync(ram.fd, raw, at, part, piece.offset) < part) return undefined;
      at += part;
    }
    return at < bytes ? undefined : raw;
  }
  const fd = openSync(path, 'r');
  try {
    return readSync(fd, raw, 0, bytes, 0) < bytes ? undefined : raw;
  } finally {
    closeSync(fd);
  }
}
