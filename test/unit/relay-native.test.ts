// SPDX-License-Identifier: Apache-2.0

import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, test } from 'vitest';
import { loadRelayAddon, type NativeRegion, type RegionOptions } from '../../host/relay/native.ts';
import {
  pageBytes,
  recordHeader,
  regionConstants,
  regionHeader,
  ringBlock,
  ringBlockBytes,
} from '../../host/wire/region.ts';
import {
  critical,
  drained,
  epoch,
  newBatch,
  other,
  RelayFixture,
  smallLayout,
  statisticsOf,
} from '../harness/relay-fixture.ts';

const addon = loadRelayAddon();
const options: RegionOptions = { bytes: smallLayout.regionBytes, epoch, rings: smallLayout.rings };

describe('layout compiled into the reader', () => {
  test('agrees with host/wire/region.ts', () => {
    expect(addon.layout).toEqual({
      regionEpoch: regionHeader.offsets.epoch,
      pageBytes,
      ringBlockBytes,
      ringMinBytes: regionConstants.RING_MIN.value,
      blockHead: ringBlock.offsets.head,
      blockAttempts: ringBlock.offsets.attempts,
      blockLost: ringBlock.offsets.lost,
      blockClockAnswer: ringBlock.offsets.clock_answer,
      blockClockNs: ringBlock.offsets.clock_ns,
      blockTail: ringBlock.offsets.tail,
      blockNeedWakeup: ringBlock.offsets.need_wakeup,
      blockJournal: ringBlock.offsets.consumer_reserved,
      blockClockQuestion: ringBlock.offsets.clock_question,
      recordTag: recordHeader.offsets.tag,
      recordLength: recordHeader.offsets.length,
      recordSlot: recordHeader.offsets.slot,
      recordEvent: recordHeader.offsets.event,
      recordCpu: recordHeader.offsets.cpu,
      recordFlags: recordHeader.offsets.flags,
      recordTime: recordHeader.offsets.time_ns,
      recordSequence: recordHeader.offsets.sequence,
      recordHeaderBytes: recordHeader.size,
      recordAlign: regionConstants.RECORD_ALIGN.value,
      recordMaxBytes: regionConstants.RECORD_MAX.value,
      recordPad: regionConstants.RECORD_PAD.value,
    });
  });
});

describe('mapping a region', () => {
  const failure = (file: string | number, changed: Partial<RegionOptions> = {}): unknown => {
    try {
      new addon.Region(file, { ...options, ...changed }).close();
      return undefined;
    } catch (error) {
      return error;
    }
  };

  test('by path and by descriptor', () => {
    const { path, writer } = new RelayFixture();
    writer.ring(other).write();
    const fd = openSync(path, 'r+');
    const region = new addon.Region(fd, options);
    closeSync(fd);
    expect(drained(region)).toEqual(['other:0']);
    region.close();
  });

  test('a file that is missing, a link, no file or too short is refused with code, errno and syscall', () => {
    const { path } = new RelayFixture();
    expect(failure(`${path}-missing`)).toMatchObject({ code: 'ENOENT', errno: 2, syscall: 'open' });
    symlinkSync(path, `${path}-link`);
    expect(failure(`${path}-link`)).toMatchObject({ code: 'ELOOP', syscall: 'open' });
    mkdirSync(`${path}-folder`);
    expect(failure(`${path}-folder`)).toMatchObject({ code: 'EISDIR', syscall: 'open' });
    expect(failure('/dev/null')).toMatchObject({ code: 'EINVAL', syscall: 'fstat' });
    truncateSync(path, smallLayout.regionBytes - 1);
    expect(failure(path)).toMatchObject({ code: 'ERANGE', syscall: 'fstat' });
  });

  const page = pageBytes;
  const half = smallLayout.regionBytes / 2;

  test('pieces of a file are read as one', () => {
    const { path, writer } = new RelayFixture();
    for (let n = 0; n < 3; n++) writer.ring(other).write();
    // The same region, its halves the other way round and apart.
    const ram = `${path}-ram`;
    const whole = readFileSync(path);
    writeFileSync(
      ram,
      Buffer.concat([Buffer.alloc(page), whole.subarray(half), Buffer.alloc(page), whole.subarray(0, half)]),
    );
    const pieces = [
      { offset: half + 2 * page, bytes: half },
      { offset: page, bytes: half },
    ];
    const region = new addon.Region(ram, { ...options, pieces });
    expect(drained(region)).toEqual(['other:0', 'other:1', 'other:2']);
    region.release();
    region.close();
    const tailAt = (smallLayout.rings[other]?.blockOffset as number) + ringBlock.offsets.tail;
    expect(readFileSync(ram).readBigUInt64LE(half + 2 * page + tailAt)).toBe(BigInt(writer.ring(other).head));
  });

  test.each([
    ['none', [], 'EINVAL'],
    ['too many', Array.from({ length: 257 }, (_, i) => ({ offset: i * page, bytes: page })), 'EINVAL'],
    ['a list of a million', Array.from({ length: 1e6 }, () => ({ offset: 0, bytes: page })), 'EINVAL'],
    [
      'overlapping ones',
      [
        { offset: 0, bytes: half },
        { offset: half - page, bytes: half },
      ],
      'EINVAL',
    ],
    [
      'the same one twice',
      [
        { offset: 0, bytes: half },
        { offset: 0, bytes: half },
      ],
      'EINVAL',
    ],
    [
      'one that is not aligned',
      [
        { offset: 8, bytes: half },
        { offset: half, bytes: half },
      ],
      'EINVAL',
    ],
    [
      'an empty one',
      [
        { offset: 0, bytes: 2 * half },
        { offset: 0, bytes: 0 },
      ],
      'EINVAL',
    ],
    ['too few bytes', [{ offset: 0, bytes: half }], 'EINVAL'],
    [
      'too many bytes',
      [
        { offset: 0, bytes: half },
        { offset: half, bytes: half },
        { offset: 0, bytes: page },
      ],
      'EINVAL',
    ],
    ['one behind the end', [{ offset: page, bytes: 2 * half }], 'ERANGE'],
    [
      'one far behind the end',
      [
        { offset: 2 ** 52, bytes: half },
        { offset: 0, bytes: half },
      ],
      'ERANGE',
    ],
    ['one of a negative offset', [{ offset: -page, bytes: 2 * half }], 'EINVAL'],
  ])('pieces: %s: refused, and nothing stays mapped', (_, pieces, code) => {
    const { path } = new RelayFixture();
    expect(failure(path, { pieces })).toMatchObject({ code });
    expect(readFileSync('/proc/self/maps', 'utf8')).not.toContain(path);
  });

  test('a region in RAM whose header was overwritten is no longer written to', () => {
    const { path, writer } = new RelayFixture();
    writer.ring(other).write();
    const region = new addon.Region(path, { ...options, pieces: [{ offset: 0, bytes: 2 * half }] });
    expect(drained(region)).toEqual(['other:0']);
    const before = readFileSync(path);
    writer.poke(0, new Uint8Array(page));
    region.release();
    expect(region.armWakeups()).toBe(false);
    region.disarmWakeups();
    expect(statisticsOf(region, smallLayout).map(({ fault }) => fault)).toEqual(['header', 'header']);
    expect(readFileSync(path).subarray(page).equals(before.subarray(page))).toBe(true);
    region.close();
  });

  test('rings outside the region are refused', () => {
    const { path } = new RelayFixture();
    const [ring] = smallLayout.rings;
    if (ring === undefined) throw new Error('no ring');
    for (const wrong of [
      { ...ring, dataOffset: smallLayout.regionBytes },
      { ...ring, dataOffset: 2 ** 52 },
      { ...ring, dataOffset: 8193 },
      { ...ring, dataBytes: 128 * 1024 },
      { ...ring, dataBytes: 6000 },
      { ...ring, blockOffset: smallLayout.regionBytes },
      { ...ring, blockOffset: 4097 },
    ]) {
      expect(failure(path, { rings: [wrong] })).toMatchObject({ code: 'EINVAL' });
    }
    expect(failure(path, { rings: [{ ...ring, blockOffset: -1 }] })).toMatchObject({ code: 'EINVAL' });
  });

  test('some of it is copied out, new or into what the caller has; nothing outside of it', () => {
    const { path, writer } = new RelayFixture();
    const region = new addon.Region(path, options);
    const end = smallLayout.regionBytes;
    writer.poke(end - 4, Uint8Array.of(1, 2, 3, 4));
    expect(region.read(end - 4, 3)).toEqual(Uint8Array.of(1, 2, 3));
    const into = new Uint8Array(4).fill(9);
    region.readInto(end - 3, into.subarray(1));
    expect(into).toEqual(Uint8Array.of(9, 2, 3, 4));
    for (const offset of [-1, end - 3, end + 1, 2 ** 52]) {
      expect(() => region.readInto(offset, into)).toThrow(expect.objectContaining({ code: 'ERANGE' }));
      expect(() => region.read(offset, 4)).toThrow(expect.objectContaining({ code: 'ERANGE' }));
    }
    for (const wrong of [undefined, 8, new ArrayBuffer(8), new Float64Array(1), {}]) {
      expect(() => region.readInto(0, wrong as never)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    region.close();
    expect(() => region.readInto(0, into)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  test('a closed region says so', () => {
    const region = new RelayFixture().openRegion();
    region.close();
    region.close();
    expect(region.closed).toBe(true);
    expect(() => region.drain(newBatch().native)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  test('a read-only region cannot be released, and nothing in the file changes', () => {
    const fixture = new RelayFixture();
    fixture.writer.ring(other).write();
    const before = fixture.writer.peek(0, smallLayout.regionBytes);
    const region = fixture.openRegion({ readOnly: true });
    expect(drained(region)).toEqual(['other:0']);
    expect(() => region.release()).toThrow(expect.objectContaining({ code: 'EROFS' }));
    expect(() => region.armWakeups()).toThrow(expect.objectContaining({ code: 'EROFS' }));
    region.close();
    expect(fixture.writer.peek(0, smallLayout.regionBytes).equals(before)).toBe(true);
  });

  test('something else than a Batch or a Region is refused', () => {
    const region: NativeRegion = new RelayFixture().openRegion();
    expect(() => region.drain({} as never)).toThrow(TypeError);
    expect(() => region.drain(region as never)).toThrow(TypeError);
    expect(() => new addon.Watcher(() => undefined).add({} as never, 1)).toThrow(TypeError);
    expect(() => new addon.Batch(1, 1024)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  test('a batch whose buffer was transferred away is harmless', () => {
    const fixture = new RelayFixture();
    fixture.writer.ring(other).write();
    const batch = newBatch();
    (batch.arena.buffer as ArrayBuffer).transfer();
    expect(fixture.openRegion().drain(batch.native)).toBe(1);
    expect(batch.slot.length).toBe(0);
  });
});

describe('a file that shrinks while it is mapped', () => {
  test('every ring is given up instead of a SIGBUS', () => {
    const fixture = new RelayFixture();
    const region = fixture.openRegion();
    fixture.writer.ring(critical).write();
    fixture.writer.ring(other).write();
    truncateSync(fixture.path, 0);
    expect(drained(region)).toEqual([]);
    expect(region.truncated).toBe(true);
    expect(statisticsOf(region, smallLayout).map((ring) => ring.fault)).toEqual(['truncated', 'truncated']);
    region.release();
  });

  test('also where only the data of a ring is gone', () => {
    const fixture = new RelayFixture();
    const region = fixture.openRegion();
    fixture.writer.ring(other).write();
    truncateSync(fixture.path, 8192);
    expect(drained(region)).toEqual([]);
    expect(statisticsOf(region, smallLayout)[other]?.fault).toBe('truncated');
  });
});
