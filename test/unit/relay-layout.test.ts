// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { defaultRegionBytes, differencesOf, regionLayout, splitRegion } from '../../host/relay/layout.ts';
import { directoryOffset, regionHeader, ringEntry } from '../../host/wire/region.ts';
import { epoch, RelayFixture, smallLayout } from '../harness/relay-fixture.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

describe('split of a region into rings', () => {
  test.each([
    // region, CPUs → critical, other
    [1 * MiB, 1, 256 * KiB, 512 * KiB],
    [1 * MiB, 2, 128 * KiB, 256 * KiB],
    [1 * MiB, 4, 64 * KiB, 128 * KiB],
    [1 * MiB, 64, 4 * KiB, 8 * KiB],
    [64 * KiB, 1, 16 * KiB, 32 * KiB],
    [16 * MiB, 4, 1 * MiB, 2 * MiB],
  ])('%i bytes, %i CPUs: %i critical, %i other', (regionBytes, cpuCount, criticalRingBytes, ringBytes) => {
    expect(splitRegion(regionBytes, cpuCount)).toEqual({ criticalRingBytes, ringBytes });
  });

  test('the share of critical events is configuration', () => {
    expect(splitRegion(MiB, 1, 0.75)).toEqual({ criticalRingBytes: 512 * KiB, ringBytes: 256 * KiB });
    expect(() => splitRegion(MiB, 1, 0)).toThrow(/between 0 and 1/);
  });

  test('a region too small for the guest says how large it has to be', () => {
    expect(() => splitRegion(64 * KiB, 16)).toThrow(
      /65536 bytes is too small for 16 CPUs: it needs at least 143360/,
    );
    expect(splitRegion(143360, 16)).toEqual({ criticalRingBytes: 4096, ringBytes: 4096 });
    expect(() => splitRegion(143359, 16)).toThrow(/too small/);
  });

  test('impossible numbers, which a guest may send, are refused', () => {
    for (const cpuCount of [0, -1, 1.5, 4294967295]) {
      expect(() =>
        regionLayout({ regionBytes: MiB, cpuCount, criticalRingBytes: 4096, ringBytes: 4096 }),
      ).toThrow();
    }
    for (const ringBytes of [0, 2048, 4097, 12288, 2 ** 31]) {
      expect(() =>
        regionLayout({ regionBytes: 2 ** 33, cpuCount: 1, criticalRingBytes: 4096, ringBytes }),
      ).toThrow();
    }
  });
});

describe('layout', () => {
  test('one CPU, as docs/wire.md has it', () => {
    expect(smallLayout.headerBytes).toBe(4096);
    expect(smallLayout.rings).toEqual([
      { blockOffset: 4096, dataOffset: 8192, dataBytes: 4096, cpu: 0, critical: true },
      { blockOffset: 4352, dataOffset: 12288, dataBytes: 4096, cpu: 0, critical: false },
    ]);
  });

  test('whatever the region and the guest, its parts are aligned, lie inside and do not touch', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 16, max: 28 }),
        fc.integer({ min: 1, max: 300 }),
        fc.double({ min: 0.05, max: 0.95, noNaN: true }),
        (log2, cpuCount, share) => {
          const regionBytes = 2 ** log2;
          let split: ReturnType<typeof splitRegion>;
          try {
            split = splitRegion(regionBytes, cpuCount, share);
          } catch {
            // Only where even the smallest rings do not fit.
            expect(() =>
              regionLayout({ regionBytes, cpuCount, criticalRingBytes: 4096, ringBytes: 4096 }),
            ).toThrow();
            return;
          }
          const layout = regionLayout({ regionBytes, cpuCount, ...split });
          const parts = [
            { from: 0, to: layout.headerBytes },
            ...layout.rings.map((ring) => ({ from: ring.blockOffset, to: ring.blockOffset + 256 })),
            ...layout.rings.map((ring) => ({ from: ring.dataOffset, to: ring.dataOffset + ring.dataBytes })),
          ].sort((a, b) => a.from - b.from);
          parts.forEach((part, at) => {
            const next = parts[at + 1]?.from ?? regionBytes;
            expect(part.to).toBeLessThanOrEqual(next);
          });
          expect(
            layout.rings.every(
              (ring) => ring.dataOffset % 4096 === 0 && Number.isInteger(Math.log2(ring.dataBytes)),
            ),
          ).toBe(true);
          expect(directoryOffset + layout.rings.length * ringEntry.size).toBeLessThanOrEqual(
            layout.headerBytes,
          );
          // No ring could be twice as large and everything still fit, at a share in between.
          const used = cpuCount * (split.criticalRingBytes + split.ringBytes);
          expect(used).toBeGreaterThan(
            (regionBytes - layout.headerBytes - 256 * layout.rings.length - 4096) / 4,
          );
        },
      ),
    );
  });
});

describe('header and directory as the guest left them', () => {
  test('what was agreed has no differences', () => {
    const { writer, layout } = new RelayFixture();
    expect(
      differencesOf(writer.peek(0, layout.headerBytes), { layout, epoch, token: new Uint8Array(16) }),
    ).toEqual([]);
  });

  test('every changed field is told', () => {
    const { writer, layout } = new RelayFixture();
    const raw = writer.peek(0, layout.headerBytes);
    raw.writeUInt32LE(0, regionHeader.offsets.magic);
    raw.writeUInt32LE(9, regionHeader.offsets.state);
    raw.writeUInt16LE(7, directoryOffset + ringEntry.size + ringEntry.offsets.cpu);
    expect(differencesOf(raw, { layout, epoch, token: Uint8Array.of(1) })).toEqual([
      expect.stringContaining('magic is'),
      'state is 9',
      'token is another',
      'ring 1: cpu is 7, not 0',
    ]);
  });

  test('any byte changed in what the guest wrote is seen', () => {
    const { writer, layout } = new RelayFixture();
    const good = writer.peek(0, layout.headerBytes);
    const covered = [
      ...range(regionHeader.offsets.magic, 12),
      ...range(regionHeader.offsets.region_bytes, 8),
      ...range(regionHeader.offsets.token, 16),
      ...range(regionHeader.offsets.epoch, 8),
      ...range(regionHeader.offsets.header_bytes, 16),
      ...range(directoryOffset, 2 * ringEntry.size),
    ];
    fc.assert(
      fc.property(fc.constantFrom(...covered), fc.integer({ min: 4, max: 255 }), (at, change) => {
        const raw = Buffer.from(good);
        raw[at] = (raw[at] as number) ^ change;
        expect(differencesOf(raw, { layout, epoch, token: new Uint8Array(16) })).not.toEqual([]);
      }),
    );
  });
});

const range = (from: number, length: number): number[] => Array.from({ length }, (_, at) => from + at);

test.each([
  [1, undefined, 2],
  [3, undefined, 8],
  [4, 2, 2],
  [8, 8, 8],
  [8192, undefined, 16],
  // A place for less is not sought.
  [1, 1, 2],
])('a guest with %i CPUs and room for %s MiB gets %i MiB', (cpus, room, mib) => {
  expect(defaultRegionBytes(cpus, room && room << 20)).toBe(mib << 20);
});
