// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import { regionLayout } from '../../host/relay/layout.ts';
import { lossReport } from '../../host/relay/loss.ts';
import type { Fault, NativeRegion } from '../../host/relay/native.ts';
import { recordHeader, ringBlock } from '../../host/wire/region.ts';
import type { RingWriter } from '../harness/region-writer.ts';
import {
  critical,
  drained,
  newBatch,
  other,
  RelayFixture,
  rowsOf,
  smallLayout,
  statisticsOf,
} from '../harness/relay-fixture.ts';

const manyCpus = regionLayout({
  regionBytes: 1 << 20,
  cpuCount: 8,
  criticalRingBytes: 4096,
  ringBytes: 4096,
});

/** A record of this many bytes, header included. */
const sized = (bytes: number): { payload: Uint8Array } => ({
  payload: new Uint8Array(bytes - recordHeader.size),
});

/** Writes two records whose sequence numbers and places are in opposite order. */
function writeSwapped(ring: RingWriter): void {
  const first = ring.attempts;
  const open = ring.reserve({ sequence: first + 1 });
  ring.write({ sequence: first });
  open?.commit();
}

describe('reading', () => {
  test('a record comes out as it was written', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const payload = Uint8Array.of(1, 2, 3, 4, 5);
    writer.ring(other).write({ slot: 7, event: 3, timeNs: 123_456_789_012n, payload });
    const batch = newBatch();
    batch.count = openRegion().drain(batch.native);
    expect(batch.count).toBe(1);
    expect([batch.slot[0], batch.event[0], batch.cpu[0], batch.ring[0]]).toEqual([7, 3, 0, other]);
    expect([batch.timeNs[0], batch.sequence[0]]).toEqual([123_456_789_012, 0]);
    expect(batch.payload(0)).toEqual(payload);
    expect((batch.payloadOffset[0] as number) % 8).toBe(0);
  });

  test('critical records come first, whatever was written first', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    for (let i = 0; i < 3; i++) writer.ring(other).write();
    writer.ring(critical).write();
    expect(drained(openRegion())).toEqual(['critical:0', 'other:0', 'other:1', 'other:2']);
  });

  test('a flood of critical records leaves a quarter of each batch to the others', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    for (let i = 0; i < 40; i++) writer.ring(critical).write();
    for (let i = 0; i < 40; i++) writer.ring(other).write();
    const rows = drained(openRegion(), newBatch(), 16);
    expect(rows.filter((row) => row.startsWith('critical'))).toHaveLength(12);
    expect(rows.filter((row) => row.startsWith('other'))).toHaveLength(4);
  });

  test('what was not released stays the guest’s full ring; what was, is free again', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    while (ring.write());
    expect(ring.head).toBe(4096);
    const region = openRegion();
    expect(drained(region)).toHaveLength(64);
    expect(drained(region)).toHaveLength(0);
    expect(ring.write()).toBe(false);
    region.release();
    expect(ring.tail).toBe(4096);
    expect(ring.write()).toBe(true);
    expect(drained(region)).toEqual(['other:66']);
  });

  test('rewind gives again what was not released', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    writer.ring(other).write();
    const region = openRegion();
    expect(drained(region)).toEqual(['other:0']);
    region.rewind();
    expect(drained(region)).toEqual(['other:0']);
    expect(statisticsOf(region, smallLayout)[other]).toMatchObject({ received: 1, duplicates: 1 });
  });

  test('records of every size wrap round the ring a hundred times', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    const region = openRegion();
    const batch = newBatch();
    let expected = 0;
    let bytes = 32;
    while (ring.head < 100 * 4096) {
      bytes = 32 + ((bytes * 7919 + 13) % 993);
      const payload = new Uint8Array(bytes - recordHeader.size).fill(expected & 0xff);
      expect(ring.write({ payload })).toBe(true);
      batch.count = region.drain(batch.native);
      expect(rowsOf(batch)).toEqual([`other:${expected}`]);
      expect(batch.payload(0)).toEqual(payload);
      region.release();
      expected++;
    }
    expect(statisticsOf(region, smallLayout)[other]).toMatchObject({
      fault: 'none',
      received: expected,
      gaps: 0,
    });
  });

  test('padding with 8 bytes left, where no record header fits', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    const region = openRegion();
    for (const bytes of [1024, 1024, 1024, 1016]) ring.write(sized(bytes));
    drained(region);
    region.release();
    expect(ring.head).toBe(4088);
    ring.write(sized(64));
    expect(ring.head).toBe(4096 + 64);
    expect(drained(region)).toEqual(['other:4']);
    expect(statisticsOf(region, smallLayout)[other]).toMatchObject({ fault: 'none', paddings: 1 });
  });

  test('padding as long as a record may be short of', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    const region = openRegion();
    for (const bytes of [1024, 1024, 1024, 32]) ring.write(sized(bytes));
    drained(region);
    region.release();
    ring.write(sized(1024));
    expect(ring.head).toBe(4096 + 1024);
    expect(drained(region)).toEqual(['other:4']);
  });

  test('a batch takes what it has room for, and the next one the rest', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    for (let i = 0; i < 10; i++) writer.ring(other).write();
    const region = openRegion();
    const batch = newBatch(4);
    expect(
      [drained(region, batch), drained(region, batch), drained(region, batch), drained(region, batch)].map(
        (rows) => rows.length,
      ),
    ).toEqual([4, 4, 2, 0]);
  });

  test('many CPUs: every ring has its turn in small batches', () => {
    const layout = manyCpus;
    const { writer, openRegion } = bound(new RelayFixture(layout));
    for (const ring of writer.rings) for (let i = 0; i < 8; i++) ring.write();
    const region = openRegion();
    const seen = new Map<number, number>();
    const batch = newBatch();
    for (;;) {
      batch.count = region.drain(batch.native, 8);
      if (batch.count === 0) break;
      for (let row = 0; row < batch.count; row++)
        seen.set(batch.ring[row] as number, (seen.get(batch.ring[row] as number) ?? 0) + 1);
    }
    expect([...seen.values()]).toEqual(Array(16).fill(8));
  });
});

describe('the tail, which only the reader writes', () => {
  const overwrite = ({ writer }: RelayFixture, tail: bigint) => {
    const raw = Buffer.alloc(8);
    raw.writeBigUInt64LE(tail);
    writer.poke(writer.ring(other).layout.blockOffset + ringBlock.offsets.tail, raw);
  };

  test.each([
    ['zero', 0n],
    ['unaligned', 65n],
    ['beyond all that was written', 1n << 40n],
    ['the largest number', (1n << 64n) - 1n],
  ])('overwritten with %s while nothing flows: written anew, and counted', (_, tail) => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    ring.write();
    const region = fixture.openRegion();
    drained(region);
    region.release();
    overwrite(fixture, tail);
    region.reclaim();
    region.reclaim();
    expect(ring.tail).toBe(64);
    expect(statisticsOf(region, smallLayout)[other]).toMatchObject({ overwritten: 1, fault: 'none' });
    expect(statisticsOf(region, smallLayout)[critical]?.overwritten).toBe(0);
    // The writer has all of its space.
    for (let i = 0; i < 64; i++) ring.write();
    expect(ring.lost).toBe(0);
  });

  test('overwritten while records flow: counted when it is written next', () => {
    const fixture = new RelayFixture();
    const region = fixture.openRegion();
    for (let i = 1; i <= 3; i++) {
      fixture.writer.ring(other).write();
      drained(region);
      overwrite(fixture, 8n);
      region.release();
      expect(fixture.writer.ring(other).tail).toBe(64 * i);
    }
    expect(statisticsOf(region, smallLayout)[other]?.overwritten).toBe(3);
  });

  test('in a ring that was given up it stays as it is', () => {
    const fixture = new RelayFixture();
    const { writer } = fixture;
    writer.poke(writer.ring(other).layout.blockOffset + ringBlock.offsets.head, Buffer.alloc(8, 7));
    const region = fixture.openRegion();
    drained(region);
    overwrite(fixture, 8n);
    region.reclaim();
    expect(writer.ring(other).tail).toBe(8);
  });
});

describe('loss', () => {
  test('what the guest counts as lost shows as gaps too', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    const region = openRegion();
    while (ring.write());
    for (let i = 0; i < 9; i++) expect(ring.write()).toBe(false);
    drained(region);
    region.release();
    ring.write();
    drained(region);
    const statistics = statisticsOf(region, smallLayout);
    expect(statistics[other]).toMatchObject({ received: 65, guestAttempts: 75, guestLost: 10, gaps: 10 });
    expect(lossReport(statistics)).toMatchObject({
      attempts: 75,
      delivered: 65,
      lost: 10,
      gaps: 10,
      outstanding: 0,
      agrees: true,
    });
  });

  test('losses after the last record show in the number of attempts', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    while (ring.write());
    const region = openRegion();
    drained(region);
    expect(lossReport(statisticsOf(region, smallLayout))).toMatchObject({
      delivered: 64,
      lost: 1,
      gaps: 0,
      outstanding: 0,
      agrees: true,
    });
  });

  test('a guest that counts wrongly is told from one that does not', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    ring.write();
    const region = openRegion();
    drained(region);
    expect(lossReport(statisticsOf(region, smallLayout)).agrees).toBe(true);
    const lost = Buffer.alloc(8);
    lost.writeBigUInt64LE(5n);
    writer.poke(ring.layout.blockOffset + ringBlock.offsets.lost, lost);
    expect(lossReport(statisticsOf(region, smallLayout))).toMatchObject({
      lost: 5,
      outstanding: -5,
      agrees: false,
    });
  });
});

describe('nesting: an interrupt writes while a record is being written', () => {
  test('nothing is published before the outermost record is committed', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const region = openRegion();
    const outer = writer.ring(other).reserve();
    writer.ring(other).write();
    expect(drained(region)).toEqual([]);
    outer?.commit();
    expect(drained(region)).toEqual(['other:0', 'other:1']);
  });

  test('sequence numbers out of order are no gap and no duplicate', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    // The interrupt came between the taking of the number and the reservation of the place.
    writeSwapped(ring);
    ring.write();
    writeSwapped(ring);
    const region = openRegion();
    expect(drained(region)).toEqual(['other:1', 'other:0', 'other:2', 'other:4', 'other:3']);
    expect(statisticsOf(region, smallLayout)[other]).toMatchObject({
      received: 5,
      gaps: 0,
      duplicates: 0,
      late: 2,
      nextSequence: 5,
    });
    expect(lossReport(statisticsOf(region, smallLayout)).agrees).toBe(true);
  });
});

describe('a ring that breaks the rules is given up', () => {
  const cases: readonly {
    readonly what: string;
    readonly fault: Fault;
    readonly taken?: number;
    readonly break: (ring: RingWriter, poke: Poke) => void;
  }[] = [
    {
      what: 'head not a multiple of 8',
      fault: 'head-misaligned',
      break: (ring) => ring.forgeHead(BigInt(ring.head) + 4n),
    },
    {
      what: 'head more than a ring ahead',
      fault: 'head-overrun',
      break: (ring) => ring.forgeHead(4096n + 8n),
    },
    {
      what: 'head at the end of all numbers',
      fault: 'head-overrun',
      break: (ring) => ring.forgeHead(0xffff_ffff_ffff_fff8n),
    },
    {
      what: 'head beyond what was written',
      fault: 'tag',
      taken: 2,
      break: (ring) => ring.forgeHead(BigInt(ring.head) + 64n),
    },
    {
      what: 'head inside a record',
      fault: 'crosses-head',
      taken: 1,
      break: (ring) => ring.forgeHead(BigInt(ring.head) - 8n),
    },
    { what: 'wrong tag', fault: 'tag', taken: 1, break: (ring, poke) => poke(ring.at(64), 1) },
    {
      what: 'length shorter than a header',
      fault: 'length',
      taken: 1,
      break: (ring, poke) => poke(ring.at(64) + 4, 31),
    },
    {
      what: 'length longer than a record may be',
      fault: 'length',
      taken: 1,
      break: (ring, poke) => poke(ring.at(64) + 4, 1025),
    },
    {
      what: 'length beyond head',
      fault: 'crosses-head',
      taken: 1,
      break: (ring, poke) => poke(ring.at(64) + 4, 65),
    },
    {
      what: 'padding in the middle',
      fault: 'padding',
      taken: 1,
      break: (ring, poke) => poke(ring.at(64) + 4, 0x8000_0000),
    },
    {
      what: 'sequence number beyond 2^53',
      fault: 'sequence',
      taken: 1,
      break: (ring, poke) => poke(ring.at(64) + 28, 0x20_0000),
    },
  ];
  type Poke = (offset: number, value: number) => void;

  test.each(cases)('$what: $fault', ({ fault, taken = 0, break: breakIt }) => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    ring.write();
    ring.write();
    writer.ring(critical).write();
    const region = openRegion();
    breakIt(ring, (offset, value) => {
      const raw = Buffer.alloc(4);
      raw.writeUInt32LE(value);
      writer.poke(offset, raw);
    });
    // The records before the broken one are good, and so is the other ring.
    expect(drained(region)).toHaveLength(1 + taken);
    expect(statisticsOf(region, smallLayout).map((s) => s.fault)).toEqual(['none', fault]);
    region.release();
    expect(ring.tail).toBe(64 * taken);
    expectGivenUp(region);
  });

  test('head that goes back', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    ring.write();
    const region = openRegion();
    drained(region);
    ring.forgeHead(0n);
    drained(region);
    expect(statisticsOf(region, smallLayout)[other]?.fault).toBe('head-behind-tail');
    expectGivenUp(region);
  });

  test('a record across the end of the ring', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    for (const bytes of [1024, 1024, 1024, 512]) ring.write(sized(bytes));
    const region = openRegion();
    drained(region);
    region.release();
    const at = ring.head;
    ring.write(sized(512));
    const raw = Buffer.alloc(4);
    raw.writeUInt32LE(1024);
    writer.poke(ring.at(at) + 4, raw);
    ring.forgeHead(BigInt(at + 1024));
    drained(region);
    expect(statisticsOf(region, smallLayout)[other]?.fault).toBe('crosses-end');
  });

  test.each([
    ['misaligned', 4n],
    ['beyond head', 128n],
    ['huge', 0xffff_ffff_ffff_fff8n],
  ])('tail %s when a reader takes over', (_, tail) => {
    const { writer, openRegion } = bound(new RelayFixture());
    const ring = writer.ring(other);
    ring.write();
    const raw = Buffer.alloc(8);
    raw.writeBigUInt64LE(tail);
    writer.poke(ring.layout.blockOffset + ringBlock.offsets.tail, raw);
    const region = openRegion();
    expect(statisticsOf(region, smallLayout)[other]?.fault).toBe('tail-invalid');
    expectGivenUp(region);
  });

  /** Not read again, and never the reason for a wake-up. */
  function expectGivenUp(region: NativeRegion): void {
    expect(drained(region).filter((row) => row.startsWith('other'))).toEqual([]);
    expect(region.hasData()).toBe(false);
    expect(region.armWakeups()).toBe(false);
  }
});

describe('wake-ups', () => {
  test('are asked for on every ring, unless there is data', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const region = openRegion();
    expect(region.armWakeups()).toBe(false);
    expect(writer.rings.map((ring) => ring.needWakeup)).toEqual([true, true]);
    writer.ring(other).write();
    expect(region.armWakeups()).toBe(true);
    expect(writer.rings.map((ring) => ring.needWakeup)).toEqual([false, false]);
  });

  test('not on a ring that was given up', () => {
    const { writer, openRegion } = bound(new RelayFixture());
    const region = openRegion();
    writer.ring(other).forgeHead(4n);
    drained(region);
    expect(region.armWakeups()).toBe(false);
    expect(writer.rings.map((ring) => ring.needWakeup)).toEqual([true, false]);
  });
});

/** Methods that can be taken out of the fixture. */
function bound(fixture: RelayFixture): {
  writer: RelayFixture['writer'];
  openRegion: RelayFixture['openRegion'];
} {
  return { writer: fixture.writer, openRegion: (options) => fixture.openRegion(options) };
}
