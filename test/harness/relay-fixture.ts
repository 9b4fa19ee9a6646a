// SPDX-License-Identifier: Apache-2.0

/** A region file of a test, its writer and its native reader; everything is gone when the test ends. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { RelayBatch } from '../../host/relay/batch.ts';
import { type RegionLayout, regionLayout } from '../../host/relay/layout.ts';
import { namedStatistics, type RingStatistics } from '../../host/relay/loss.ts';
import { loadRelayAddon, type NativeRegion, statisticsPerRing } from '../../host/relay/native.ts';
import { RegionWriter } from './region-writer.ts';

export const epoch = 0x1234_5678_9abc_def1n;

/** One CPU, rings as small as they may be: 4 KiB each. */
export const smallLayout: RegionLayout = regionLayout({
  regionBytes: 64 * 1024,
  cpuCount: 1,
  criticalRingBytes: 4096,
  ringBytes: 4096,
});
export const critical = 0;
export const other = 1;

export class RelayFixture {
  readonly path: string;
  readonly layout: RegionLayout;
  readonly writer: RegionWriter;
  readonly #folder: string;
  readonly #regions: NativeRegion[] = [];

  constructor(layout: RegionLayout = smallLayout) {
    this.#folder = mkdtempSync(join(tmpdir(), 'vesper-relay-'));
    this.path = join(this.#folder, 'region');
    this.layout = layout;
    this.writer = new RegionWriter(this.path, layout, epoch);
    onTestFinished(() => this.remove());
  }

  openRegion(options: { readonly readOnly?: boolean } = {}): NativeRegion {
    const { Region } = loadRelayAddon();
    const { regionBytes, rings } = this.layout;
    const region = new Region(this.path, { bytes: regionBytes, epoch, rings, resume: true, ...options });
    this.#regions.push(region);
    return region;
  }

  remove(): void {
    for (const region of this.#regions) region.close();
    this.writer.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

export function newBatch(records = 1024): RelayBatch {
  return new RelayBatch(new (loadRelayAddon().Batch)(records, 64 * 1024));
}

/** `ring:sequence` of each row that one drain gives, without releasing. */
export function drained(region: NativeRegion, batch = newBatch(), limit?: number): string[] {
  batch.count = region.drain(batch.native, limit);
  return rowsOf(batch);
}

export function rowsOf(batch: RelayBatch): string[] {
  return Array.from(
    { length: batch.count },
    (_, row) => `${batch.ring[row] === 0 ? 'critical' : 'other'}:${batch.sequence[row]}`,
  );
}

export function statisticsOf(region: NativeRegion, layout: RegionLayout): RingStatistics[] {
  const raw = new Float64Array(layout.rings.length * statisticsPerRing);
  region.statistics(raw);
  return namedStatistics(raw, layout.rings);
}
