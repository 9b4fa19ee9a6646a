// SPDX-License-Identifier: Apache-2.0

/** Corrupts a region again and again while a reader does all that readers do. Throws what a reader must never do. */

import type { RelayBatch } from '../../host/relay/batch.ts';
import { differencesOf } from '../../host/relay/layout.ts';
import { type Corruption, corrupt, pristineOf, Random } from './corruption.ts';
import { RegionWriter } from './region-writer.ts';
import { epoch, newBatch, type RelayFixture, statisticsOf } from './relay-fixture.ts';

export interface Outcome {
  readonly rounds: number;
  readonly records: number;
  /** Rings given up, by reason. */
  readonly faults: Readonly<Record<string, number>>;
  /** Rounds in which header or directory were found changed. */
  readonly tampered: number;
  /** Longest drain, in milliseconds of processor time: the machine may have other work. */
  readonly longestMs: number;
}

export function corruptionRounds(fixture: RelayFixture, rounds: number, seed: number): Outcome {
  const { layout, path } = fixture;
  const random = new Random(seed);
  const pristine = pristineOf(fixture.writer, layout);
  const batch = newBatch();
  const faults: Record<string, number> = {};
  let records = 0;
  let tampered = 0;
  let longestMs = 0;
  for (let round = 0; round < rounds; round++) {
    fixture.writer.poke(0, pristine);
    const writer = new RegionWriter(path, layout, epoch, { resume: true });
    const done: Corruption[] = [];
    try {
      for (let i = random.below(48); i > 0; i--)
        writer
          .ring(random.below(layout.rings.length))
          .write({ payload: new Uint8Array(random.below(4) * 32) });
      if (random.below(4) === 0) passBy(fixture, writer, random, batch);
      if (random.below(2) === 0) done.push(corrupt(writer, random));
      const region = fixture.openRegion();
      for (let step = 0; step < 4; step++) {
        const before = threadMs();
        let most = layout.regionBytes / 32;
        for (
          batch.count = region.drain(batch.native);
          batch.count > 0;
          batch.count = region.drain(batch.native)
        ) {
          checkRows(batch, layout.rings.length);
          records += batch.count;
          most -= batch.count;
          if (most < 0) throw new Error('more records than the region can hold');
          region.release();
        }
        longestMs = Math.max(longestMs, threadMs() - before);
        done.push(corrupt(writer, random));
        region.armWakeups();
        writer.ring(random.below(layout.rings.length)).write();
      }
      for (const next of [region.history, region.beyond]) {
        for (
          batch.count = next.call(region, batch.native);
          batch.count > 0;
          batch.count = next.call(region, batch.native)
        ) {
          checkRows(batch, layout.rings.length);
        }
      }
      for (const ring of statisticsOf(region, layout)) faults[ring.fault] = (faults[ring.fault] ?? 0) + 1;
      if (differencesOf(region.read(0, layout.headerBytes), { layout, epoch }).length > 0) tampered++;
      region.close();
    } catch (cause) {
      throw new Error(`round ${round} of seed ${seed} (${done.join(', ')}): ${String(cause)}`, { cause });
    } finally {
      writer.close();
    }
  }
  return { rounds, records, faults, tampered, longestMs };
}

/** Reads all that is there and writes more, so that the rings are at their end or round it. */
function passBy(fixture: RelayFixture, writer: RegionWriter, random: Random, batch: RelayBatch): void {
  const region = fixture.openRegion();
  batch.count = region.drain(batch.native);
  region.release();
  region.close();
  for (let i = 40 + random.below(40); i > 0; i--)
    writer.ring(random.below(2)).write({ payload: new Uint8Array(random.below(9) * 32) });
}

/** Processor time of this thread so far, in milliseconds. */
export function threadMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1e3;
}

/** Whatever the guest wrote, rows point into the arena and at rings that exist. */
export function checkRows(batch: RelayBatch, rings: number): void {
  for (let row = 0; row < batch.count; row++) {
    const from = batch.payloadOffset[row] as number;
    const bytes = batch.payloadBytes[row] as number;
    const good =
      from % 8 === 0 &&
      bytes <= 1024 - 32 &&
      from + bytes <= batch.arena.length &&
      (batch.ring[row] as number) < rings;
    if (!good) throw new Error(`row ${row}: payload at ${from}, ${bytes} bytes, ring ${batch.ring[row]}`);
  }
}
