// SPDX-License-Identifier: Apache-2.0

/** What is still in the region of a guest that is gone: the region's file outlives it. Nothing in the file is changed. */

import { messageOf, VesperError } from '../error.ts';
import { RelayBatch } from './batch.ts';
import type { RegionLayout } from './layout.ts';
import { namedStatistics, type RingStatistics } from './loss.ts';
import {
  loadRelayAddon,
  type NativeRegion,
  type RegionRam,
  type RelayAddon,
  statisticsPerRing,
} from './native.ts';

/**
 * `delivered`: a reader released it while the guest lived, and it was not overwritten since. `published`: nobody released
 * it. `unpublished`: written, but the guest died before it said so; most likely its very last.
 */
export type BlackBoxPart = 'delivered' | 'published' | 'unpublished';

export interface BlackBoxOptions {
  /** The region file; with `ram` only what messages call it. */
  readonly path: string;
  readonly ram?: RegionRam | undefined;
  readonly layout: RegionLayout;
  readonly epoch: bigint;
  /** Takes the rows of the batch before it returns; the batch is used again. */
  readonly onBatch: (batch: RelayBatch, part: BlackBoxPart) => void;
  /** Also give records that were delivered while the guest lived. Default: only what nobody saw. */
  readonly delivered?: boolean;
}

/** Gives every record, of each ring in the order it was written. Throws RELAY where the file cannot be mapped. */
export function blackBox(options: BlackBoxOptions): readonly RingStatistics[] {
  const { layout, onBatch } = options;
  const addon = loadRelayAddon();
  const batch = new RelayBatch(new addon.Batch(1024, 256 * 1024));
  const region = open(addon, options);
  try {
    const give = (part: BlackBoxPart, next: () => number): void => {
      for (batch.count = next(); batch.count > 0; batch.count = next()) onBatch(batch, part);
    };
    if (options.delivered === true) give('delivered', () => region.history(batch.native));
    give('published', () => region.drain(batch.native));
    give('unpublished', () => region.beyond(batch.native));
    const raw = new Float64Array(layout.rings.length * statisticsPerRing);
    region.statistics(raw);
    return namedStatistics(raw, layout.rings);
  } finally {
    region.close();
  }
}

function open(addon: RelayAddon, { path, ram, layout, epoch }: BlackBoxOptions): NativeRegion {
  try {
    const { regionBytes, rings } = layout;
    const options = { pieces: ram?.pieces, bytes: regionBytes, epoch, rings, resume: true, readOnly: true };
    return new addon.Region(ram?.fd ?? path, options);
  } catch (cause) {
    throw new VesperError('RELAY', `the relay region ${path} cannot be read: ${messageOf(cause)}`, {
      cause,
      data: { path },
    });
  }
}
