// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type {
  EventDeclaration,
  FieldDeclaration,
  FieldType,
  ValueSet,
} from '../../host/probe/declaration.ts';
import type { PayloadRows } from '../../host/relay/batch.ts';
import { compileDecoder, type FieldValue } from '../../host/relay/decoder.ts';
import { textOf } from '../../host/wire/struct.ts';

const field = (
  name: string,
  type: FieldType,
  offset: number,
  size: number,
  values?: ValueSet,
): FieldDeclaration => ({
  name,
  type,
  offset,
  size,
  role: 'detail',
  unit: 'none',
  doc: '',
  values,
});

const event = (payloadBytes: number, ...fields: FieldDeclaration[]): EventDeclaration => ({
  id: 1,
  name: 'died',
  severity: 'critical',
  doc: '',
  payloadBytes,
  fields,
});

/** One row whose payload does not begin where the arena does. */
function rows(payload: Uint8Array): PayloadRows {
  const arena = new Uint8Array(payload.length + 16).fill(0xaa);
  arena.set(payload, 8);
  return {
    arena,
    view: new DataView(arena.buffer),
    payloadOffset: Uint32Array.of(8),
    payloadBytes: Uint32Array.of(payload.length),
  };
}

function decodedValue(declaration: FieldDeclaration, payload: Uint8Array): FieldValue | undefined {
  return compileDecoder(event(payload.length, declaration)).toObject(rows(payload), 0)[declaration.name];
}

const little = (value: bigint, bytes: number): Uint8Array => {
  const raw = Buffer.alloc(8);
  raw.writeBigUInt64LE(BigInt.asUintN(64, value));
  return raw.subarray(0, bytes);
};

describe('numbers', () => {
  const types = {
    u8: [8, false],
    u16: [16, false],
    u32: [32, false],
    u64: [64, false],
    s8: [8, true],
    s16: [16, true],
    s32: [32, true],
    s64: [64, true],
  } as const;

  test.each(Object.entries(types))('%s: every value comes back', (type, [bits, signed]) => {
    const values = signed
      ? fc.bigInt({ min: -(1n << BigInt(bits - 1)), max: (1n << BigInt(bits - 1)) - 1n })
      : fc.bigInt({ min: 0n, max: (1n << BigInt(bits)) - 1n });
    fc.assert(
      fc.property(values, (value) => {
        const read = decodedValue(field('x', type as FieldType, 0, bits / 8), little(value, bits / 8));
        expect(BigInt(read as number | bigint)).toBe(value);
        // A bigint only where a number would not be exact.
        expect(typeof read).toBe(Number.isSafeInteger(Number(value)) ? 'number' : 'bigint');
      }),
    );
  });

  test.each([
    ['u64', (1n << 53n) - 1n, 'number'],
    ['u64', 1n << 53n, 'bigint'],
    ['u64', (1n << 64n) - 1n, 'bigint'],
    ['s64', -(1n << 53n) + 1n, 'number'],
    ['s64', -(1n << 53n), 'bigint'],
    ['s64', -1n, 'number'],
    ['s64', -(1n << 63n), 'bigint'],
  ] as const)('%s %s is a %s', (type, value, kind) => {
    const read = decodedValue(field('x', type, 0, 8), little(value, 8));
    expect(typeof read).toBe(kind);
    expect(BigInt(read as number | bigint)).toBe(value);
  });
});

describe('text', () => {
  test('is what textOf makes of the same bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 100 }), (raw) => {
        expect(decodedValue(field('comm', 'text', 0, raw.length), raw)).toBe(textOf(raw));
      }),
    );
    fc.assert(
      fc.property(fc.string({ minLength: 0, maxLength: 16 }), (name) => {
        const raw = new Uint8Array(64);
        raw.set(Buffer.from(name).subarray(0, 64));
        expect(decodedValue(field('comm', 'text', 0, 64), raw)).toBe(textOf(raw));
      }),
    );
  });

  test.each([
    ['bash\0\0\0\0', 'bash'],
    ['full', 'full'],
    ['\0hidden', ''],
    ['a\u001b[31mred', 'a\\x1b[31mred'],
    ['größe\0', 'größe'],
  ])('%j is %j', (raw, shown) => {
    const bytes = Buffer.from(raw);
    expect(decodedValue(field('comm', 'text', 0, bytes.length), bytes)).toBe(shown);
  });
});

describe('named values', () => {
  const signals: ValueSet = {
    name: 'signal',
    kind: 'enum',
    values: [
      { value: 9n, name: 'SIGKILL' },
      { value: 0xffff_ffffn, name: 'NONE' },
    ],
  };
  const gfp: ValueSet = {
    name: 'gfp',
    kind: 'flag',
    values: [
      { value: 0x40n, name: 'IO' },
      { value: 0x80n, name: 'FS' },
      { value: 0xc0n, name: 'NOFS_AND_IO' },
      { value: 1n << 40n, name: 'FAR' },
    ],
  };

  test('enum: the name, or the number as text', () => {
    expect(decodedValue(field('sig', 's32', 0, 4, signals), little(9n, 4))).toBe('SIGKILL');
    expect(decodedValue(field('sig', 's32', 0, 4, signals), little(-1n, 4))).toBe('NONE');
    expect(decodedValue(field('sig', 's32', 0, 4, signals), little(-2n, 4))).toBe('-2');
  });

  test.each([
    [0x40n, 'IO'],
    [0xc0n, 'NOFS_AND_IO'],
    [0x1c2n, 'NOFS_AND_IO|0x102'],
    [0n, '0'],
    [(1n << 40n) | 0x80n, 'FS|FAR'],
    [1n << 63n, '0x8000000000000000'],
  ])('flags 0x%x: %s', (value, shown) => {
    expect(decodedValue(field('flags', 'u64', 0, 8, gfp), little(value, 8))).toBe(shown);
  });

  test('the number itself stays to be had', () => {
    const decoder = compileDecoder(event(4, field('sig', 's32', 0, 4, signals)));
    expect(decoder.field('sig')?.read(rows(little(9n, 4)), 0)).toBe(9);
    expect(decoder.field('other')).toBeUndefined();
  });

  test('a guest that sends a million different values does not fill the memory of the names', () => {
    const decoder = compileDecoder(event(4, field('sig', 'u32', 0, 4, signals)));
    const row = rows(new Uint8Array(4));
    global.gc?.();
    const before = process.memoryUsage().heapUsed;
    for (let value = 0; value < 1_000_000; value++) {
      row.view.setUint32(8, value, true);
      decoder.toObject(row, 0);
    }
    expect(decoder.toObject(row, 0)).toEqual({ sig: '999999' });
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 << 20);
  });
});

describe('declarations out of a third party’s file', () => {
  test.each([
    ['outside the payload', field('x', 'u32', 6, 4)],
    ['outside the payload', field('x', 'u8', -1, 1)],
    ['outside the payload', field('x', 'u32', 1.5, 4)],
    ['outside the payload', field('x', 'text', 0, 0)],
    ['of type u32 has 8 bytes', field('x', 'u32', 0, 8)],
    ['cannot be called', field('__proto__', 'u32', 0, 4)],
  ])('%s', (message, wrong) => {
    expect(() => compileDecoder(event(8, wrong))).toThrow(
      expect.objectContaining({ code: 'BAD_IMAGE', message: expect.stringContaining(message) }),
    );
  });

  test('two fields of one name', () => {
    expect(() => compileDecoder(event(8, field('x', 'u32', 0, 4), field('x', 'u32', 4, 4)))).toThrow(
      /same name/,
    );
  });

  test('names that objects have anyway are ordinary', () => {
    const decoder = compileDecoder(
      event(8, field('constructor', 'u32', 0, 4), field('toString', 'u32', 4, 4)),
    );
    expect(decoder.toObject(rows(new Uint8Array(8)), 0)).toEqual({ constructor: 0, toString: 0 });
  });

  test('a payload of another length does not fit', () => {
    const decoder = compileDecoder(event(8, field('x', 'u32', 0, 4)));
    expect(decoder.fits(rows(new Uint8Array(8)), 0)).toBe(true);
    expect(decoder.fits(rows(new Uint8Array(16)), 0)).toBe(false);
  });
});
