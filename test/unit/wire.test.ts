// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as descriptor from '../../host/wire/descriptor.ts';
import * as message from '../../host/wire/message.ts';
import * as region from '../../host/wire/region.ts';
import {
  bytes,
  decode,
  encode,
  encodeInto,
  type Field,
  type Struct,
  struct,
  text,
  textOf,
  u8,
  u16,
  u32,
  u64,
  type ValuesOf,
} from '../../host/wire/struct.ts';

const isStruct = (value: unknown): value is Struct =>
  typeof value === 'object' && value !== null && 'offsets' in value;
const layouts: readonly Struct[] = [
  ...Object.values(message.messages).map(({ payload }) => payload),
  ...[descriptor, message, region].flatMap((module) => Object.values(module).filter(isStruct)),
];

function arbitraryOf(field: Field): fc.Arbitrary<number | bigint | string | Uint8Array> {
  switch (field.kind) {
    case 'u8':
      return fc.nat(0xff);
    case 'u16':
      return fc.nat(0xffff);
    case 'u32':
      return fc.nat(0xffff_ffff);
    case 's32':
      return fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
    case 'u64':
      return fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    case 'text':
      return fc.string({ unit: fc.constantFrom(...'aZ09_. '), maxLength: field.size });
    case 'bytes':
      return fc.uint8Array({ minLength: field.size, maxLength: field.size });
  }
}

describe('every layout of the wire', () => {
  it.each(layouts.map((layout) => [layout.name, layout] as const))(
    '%s reads back what was written',
    (_name, layout) => {
      const values = fc.record(
        Object.fromEntries(Object.entries(layout.fields).map(([key, field]) => [key, arbitraryOf(field)])),
      );
      fc.assert(
        fc.property(values, fc.nat(16), (wanted, offset) => {
          const raw = new Uint8Array(offset + layout.size + 3)
            .fill(0xee, 0, offset)
            .fill(0xee, offset + layout.size);
          encodeInto(layout, wanted as ValuesOf<Struct>, raw, offset);
          expect(decode(layout, raw, offset)).toEqual(wanted);
          expect(raw.subarray(0, offset).every((byte) => byte === 0xee)).toBe(true);
          expect(raw.subarray(offset + layout.size).every((byte) => byte === 0xee)).toBe(true);
        }),
        { numRuns: 50 },
      );
    },
  );

  it.each(layouts.map((layout) => [layout.name, layout] as const))(
    '%s has no hidden padding',
    (_name, layout) => {
      const sizes = Object.values(layout.fields).reduce((sum, { size }) => sum + size, 0);
      expect(layout.size).toBe(sizes);
    },
  );

  it('has a C name of its own', () => {
    const unique = new Set(layouts.map(({ name }) => name));
    expect(unique.size).toBe(new Set(layouts).size);
  });
});

describe('a layout', () => {
  const sample = struct('sample', '', {
    a: u8(''),
    b: u8(''),
    c: u16(''),
    d: u32(''),
    e: u64(''),
    f: text(6, ''),
    g: bytes(2, ''),
  });

  it('puts its bytes where C puts them', () => {
    expect(sample.offsets).toEqual({ a: 0, b: 1, c: 2, d: 4, e: 8, f: 16, g: 22 });
    const raw = encode(sample, {
      a: 1,
      b: 2,
      c: 0x0304,
      d: 0x05060708,
      e: 0x1122334455667788n,
      f: 'hi',
      g: new Uint8Array([9, 8]),
    });
    expect(Buffer.from(raw).toString('hex')).toBe('01020403080706058877665544332211686900000000' + '0908');
  });

  it('is refused where C would pad it', () => {
    expect(() => struct('x', '', { a: u8(''), b: u32('') })).toThrow('x.b: offset 1 is not aligned to 4');
    expect(() => struct('x', '', { a: u64(''), b: u8('') })).toThrow('x: size 9 is not a multiple of 8');
  });

  it('refuses text that does not fit, counted in bytes', () => {
    expect(encode(sample, { f: 'abcdef' })[21]).toBe(0x66);
    expect(() => encode(sample, { f: 'abcdé!' })).toThrow('sample.f: 7 bytes do not fit into 6');
  });

  it('refuses to read beyond what is there', () => {
    for (const [length, offset] of [
      [23, 0],
      [24, 1],
      [24, -1],
      [0, 0],
    ] as const) {
      expect(() => decode(sample, new Uint8Array(length), offset)).toThrow(RangeError);
    }
  });

  it('copies bytes out, so that hostile memory cannot change what was checked', () => {
    const raw = encode(sample, { g: new Uint8Array([1, 2]) });
    const { g } = decode(sample, raw);
    raw.fill(0xff);
    expect(g).toEqual(new Uint8Array([1, 2]));
  });

  it('shows text up to its NUL, and nothing that steers a terminal', () => {
    expect(textOf(Buffer.from('name\0rest'))).toBe('name');
    expect(textOf(Buffer.from('full'))).toBe('full');
    expect(textOf(Buffer.from('a\x1b]0;b\x07'))).toBe('a\\x1b]0;b\\x07');
    expect(textOf(new Uint8Array([0x61, 0xff]))).toBe('a\ufffd');
  });
});

describe('the messages', () => {
  const entries = Object.entries(message.messages);

  it('have types of their own, found by number', () => {
    expect(new Set(entries.map(([, { type }]) => type)).size).toBe(entries.length);
    for (const [name, { type }] of entries) expect(message.messageName(type)).toBe(name);
    expect(message.messageName(0)).toBeUndefined();
    expect(message.messageName(999)).toBeUndefined();
  });

  it('fit into a frame with their longest tail', () => {
    const { limits, messages, pointStatus, probeStatus } = message;
    const most = limits.FRAME_PAYLOAD_MAX.value;
    for (const [, { payload }] of entries) expect(payload.size).toBeLessThanOrEqual(most);
    expect(messages.push_data.payload.size + limits.CHUNK_MAX.value).toBeLessThanOrEqual(most);
    expect(messages.push_commit.payload.size + limits.ARGS_MAX.value).toBeLessThanOrEqual(most);
    expect(messages.loaded.payload.size + limits.POINTS_MAX.value * pointStatus.size).toBeLessThanOrEqual(
      most,
    );
    expect(messages.status_report.payload.size + limits.SLOTS.value * probeStatus.size).toBeLessThanOrEqual(
      most,
    );
  });
});

describe('the region', () => {
  it('keeps what the guest and what the host write on cache lines of their own', () => {
    expect(region.ringBlock.size).toBe(region.ringBlockBytes);
    expect(region.ringBlock.offsets.tail).toBe(region.ringBlockBytes / 2);
    expect(region.regionHeader.size).toBeLessThanOrEqual(region.directoryOffset);
  });

  it('has record headers that keep payloads aligned', () => {
    expect(region.recordHeader.size % region.recordAlignment).toBe(0);
  });
});
