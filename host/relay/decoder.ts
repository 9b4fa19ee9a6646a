// SPDX-License-Identifier: Apache-2.0

/**
 * Decoders compiled from what a probe declares: closures, no generated code, since the declarations come out of a third
 * party's file. Values:
 *
 *   u8 … s32     number
 *   u64, s64     number where it is exact (below 2^53 in size), else bigint
 *   address      hexadecimal text, whatever its type
 *   text         string as `textOf` of host/wire/struct.ts gives it: up to the first NUL, control characters escaped
 *   enum         name of the value; the number as text where it has none
 *   flag         names joined by '|', what is left in hexadecimal; '0' where no bit is set and 0 has no name
 */

import { VesperError } from '../error.ts';
import type { EventDeclaration, FieldDeclaration, FieldType, ValueSet } from '../probe/declaration.ts';
import { textOf } from '../wire/struct.ts';
import type { PayloadRows } from './batch.ts';

export type FieldValue = number | bigint | string;

export interface FieldDecoder {
  readonly declaration: FieldDeclaration;
  /** The value itself: enums and flags as their number. */
  read(rows: PayloadRows, row: number): FieldValue;
  /** The value with names for enums and flags: what `toObject` gives. */
  show(rows: PayloadRows, row: number): FieldValue;
}

/** Valid for rows whose payload is exactly as long as declared: see `fits`. */
export interface EventDecoder {
  readonly declaration: EventDeclaration;
  readonly fields: readonly FieldDecoder[];
  field(name: string): FieldDecoder | undefined;
  /** Whether the payload of the row has the declared length; a row that has not must not be decoded. */
  fits(rows: PayloadRows, row: number): boolean;
  /** One property a field, in the order of the declaration. */
  toObject(rows: PayloadRows, row: number): Record<string, FieldValue>;
}

/** Throws BAD_IMAGE where a field cannot be: outside the payload, or of a size its type does not have. */
export function compileDecoder(declaration: EventDeclaration): EventDecoder {
  const fields = declaration.fields.map((field) => compileField(declaration, field));
  const byName = new Map(fields.map((field) => [field.declaration.name, field]));
  if (byName.size !== fields.length) throw impossible(declaration, 'two fields have the same name');
  const names = fields.map((field) => field.declaration.name);
  const { payloadBytes } = declaration;
  return {
    declaration,
    fields,
    field: (name) => byName.get(name),
    fits: (rows, row) => rows.payloadBytes[row] === payloadBytes,
    toObject: (rows, row) => {
      const object: Record<string, FieldValue> = {};
      for (let at = 0; at < fields.length; at++) {
        object[names[at] as string] = (fields[at] as FieldDecoder).show(rows, row);
      }
      return object;
    },
  };
}

type Reader = (rows: PayloadRows, row: number) => FieldValue;

const sizes: Readonly<Record<FieldType, number>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  s8: 1,
  s16: 2,
  s32: 4,
  s64: 8,
  text: 0,
};

function compileField(event: EventDeclaration, declaration: FieldDeclaration): FieldDecoder {
  const { name, type, offset, size, values } = declaration;
  // What assigning it to a property of an ordinary object would not do.
  if (name === '' || name === '__proto__') throw impossible(event, `a field cannot be called '${name}'`);
  if (
    !Number.isInteger(offset) ||
    !Number.isInteger(size) ||
    offset < 0 ||
    size < 1 ||
    offset + size > event.payloadBytes
  ) {
    throw impossible(event, `field ${name} lies outside the payload`);
  }
  if (type !== 'text' && size !== sizes[type])
    throw impossible(event, `field ${name} of type ${type} has ${size} bytes`);
  const read = readerOf(type, offset, size);
  if (declaration.role === 'address' && type !== 'text') {
    return { declaration, read, show: (rows, row) => `0x${read(rows, row).toString(16)}` };
  }
  if (values === undefined || type === 'text') return { declaration, read, show: read };
  const named = namer(values, type);
  return { declaration, read, show: (rows, row) => named(read(rows, row) as number | bigint) };
}

const impossible = (event: EventDeclaration, what: string): VesperError =>
  new VesperError('BAD_IMAGE', `event ${event.name}: ${what}: build the probe with the VESPER kit`, {
    data: { event: event.name },
  });

function readerOf(type: FieldType, offset: number, size: number): Reader {
  const at = (rows: PayloadRows, row: number): number => (rows.payloadOffset[row] as number) + offset;
  switch (type) {
    case 'u8':
      return (rows, row) => rows.view.getUint8(at(rows, row));
    case 'u16':
      return (rows, row) => rows.view.getUint16(at(rows, row), true);
    case 'u32':
      return (rows, row) => rows.view.getUint32(at(rows, row), true);
    case 's8':
      return (rows, row) => rows.view.getInt8(at(rows, row));
    case 's16':
      return (rows, row) => rows.view.getInt16(at(rows, row), true);
    case 's32':
      return (rows, row) => rows.view.getInt32(at(rows, row), true);
    case 'u64':
      return (rows, row) => {
        const from = at(rows, row);
        const high = rows.view.getUint32(from + 4, true);
        if (high < 0x20_0000) return high * 0x1_0000_0000 + rows.view.getUint32(from, true);
        return rows.view.getBigUint64(from, true);
      };
    case 's64':
      return (rows, row) => {
        const from = at(rows, row);
        const value = rows.view.getInt32(from + 4, true) * 0x1_0000_0000 + rows.view.getUint32(from, true);
        return Number.isSafeInteger(value) ? value : rows.view.getBigInt64(from, true);
      };
    case 'text':
      return (rows, row) => textAt(rows.arena, at(rows, row), size);
  }
}

/** Longer than the texts that probes have; what is longer takes the slow way. */
const codes: number[] = [];

/** As textOf; printable ASCII, which nearly all names are, without a decoder and a search. */
function textAt(arena: Uint8Array, from: number, size: number): string {
  if (size <= 64) {
    codes.length = 0;
    for (let at = from; at < from + size; at++) {
      const code = arena[at] as number;
      if (code === 0) return String.fromCharCode.apply(null, codes);
      if (code < 0x20 || code > 0x7e) return textOf(arena.subarray(from, from + size));
      codes.push(code);
    }
    return String.fromCharCode.apply(null, codes);
  }
  return textOf(arena.subarray(from, from + size));
}

const remembered = 512;

function namer(values: ValueSet, type: FieldType): (value: number | bigint) => string {
  const bits = BigInt(sizes[type] * 8);
  // Declared values are unsigned 64 bits; compared as the field stores them.
  const unsigned = (value: bigint): bigint => BigInt.asUintN(Number(bits), value);
  const compute = values.kind === 'enum' ? enumNamer(values, unsigned) : flagNamer(values, unsigned);
  // The guest chooses the values: remember few, forget all when there are too many.
  const known = new Map<number | bigint, string>();
  return (value) => {
    const found = known.get(value);
    if (found !== undefined) return found;
    const name = compute(BigInt(value));
    if (known.size >= remembered) known.clear();
    known.set(value, name);
    return name;
  };
}

function enumNamer(values: ValueSet, unsigned: (value: bigint) => bigint): (value: bigint) => string {
  const names = new Map<bigint, string>();
  for (const { value, name } of values.values)
    if (!names.has(unsigned(value))) names.set(unsigned(value), name);
  return (value) => names.get(unsigned(value)) ?? String(value);
}

function flagNamer(values: ValueSet, unsigned: (value: bigint) => bigint): (value: bigint) => string {
  const weight = (value: bigint): number => value.toString(2).replaceAll('0', '').length;
  const entries = values.values.map(({ value, name }) => ({ mask: unsigned(value), name }));
  const zero = entries.find(({ mask }) => mask === 0n)?.name ?? '0';
  // Groups of bits before the single bits they are made of, as the kernel prints gfp flags.
  const groups = entries
    .filter(({ mask }) => mask !== 0n)
    .sort((a, b) => weight(b.mask) - weight(a.mask) || (a.mask < b.mask ? -1 : 1));
  return (value) => {
    let left = unsigned(value);
    if (left === 0n) return zero;
    const names: string[] = [];
    for (const { mask, name } of groups) {
      if ((left & mask) !== mask) continue;
      names.push(name);
      left &= ~mask;
    }
    if (left !== 0n) names.push(`0x${left.toString(16)}`);
    return names.join('|');
  };
}
