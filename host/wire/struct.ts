// SPDX-License-Identifier: Apache-2.0

/**
 * A table of fields is the one definition of a byte layout: TypeScript types are inferred from it, the codec below
 * follows it, and `generate.ts` writes the C struct. All layouts are little-endian and naturally aligned; a table that
 * would need hidden padding is refused.
 */

export type Kind = 'u8' | 'u16' | 'u32' | 's32' | 'u64' | 'text' | 'bytes';

export interface Field {
  readonly kind: Kind;
  /** Size in bytes. */
  readonly size: number;
  readonly doc: string;
}

const field =
  <K extends Kind>(kind: K, size: number) =>
  (doc: string): { kind: K; size: number; doc: string } => ({ kind, size, doc });

export const u8 = field('u8', 1);
export const u16 = field('u16', 2);
export const u32 = field('u32', 4);
export const s32 = field('s32', 4);
export const u64 = field('u64', 8);
/** Fixed array of bytes holding text, padded with NULs; NUL-terminated unless it fills the array. */
export const text = (size: number, doc: string) => field('text', size)(doc);
export const bytes = (size: number, doc: string) => field('bytes', size)(doc);

export type Fields = Readonly<Record<string, Field>>;

type ValueOf<F extends Field> = F['kind'] extends 'u64'
  ? bigint
  : F['kind'] extends 'text'
    ? string
    : F['kind'] extends 'bytes'
      ? Uint8Array
      : number;

export interface Struct<F extends Fields = Fields> {
  /** Name of the C struct, without the `struct` keyword. */
  readonly name: string;
  readonly doc: string;
  readonly fields: F;
  readonly offsets: { readonly [K in keyof F]: number };
  /** Size in bytes, a multiple of the strictest alignment inside. */
  readonly size: number;
}

/** The values of a struct, as TypeScript sees them. */
export type ValuesOf<S> = S extends Struct<infer F> ? { [K in keyof F]: ValueOf<F[K]> } : never;

const alignmentOf = (f: Field): number => (f.kind === 'text' || f.kind === 'bytes' ? 1 : f.size);

/** Declare a layout. Throws at load time where a field would not be naturally aligned. */
export function struct<const F extends Fields>(name: string, doc: string, fields: F): Struct<F> {
  const offsets: Record<string, number> = {};
  let offset = 0;
  let strictest = 1;
  for (const [key, f] of Object.entries(fields)) {
    const alignment = alignmentOf(f);
    if (offset % alignment !== 0)
      throw new Error(`${name}.${key}: offset ${offset} is not aligned to ${alignment}`);
    strictest = Math.max(strictest, alignment);
    offsets[key] = offset;
    offset += f.size;
  }
  if (offset % strictest !== 0) throw new Error(`${name}: size ${offset} is not a multiple of ${strictest}`);
  return { name, doc, fields, offsets: offsets as Struct<F>['offsets'], size: offset };
}

const utf8 = new TextDecoder('utf-8', { fatal: false });
const encoder = new TextEncoder();
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const controlCharacters = /[\u0000-\u001f\u007f-\u009f]/g;

/** Text of a fixed array: up to the first NUL, control characters shown as `\xNN`, so that it is safe to print. */
export function textOf(raw: Uint8Array): string {
  const end = raw.indexOf(0);
  const shown = utf8.decode(end < 0 ? raw : raw.subarray(0, end));
  return shown.replace(controlCharacters, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** Write `values` at `offset`; missing fields are zero. Text that does not fit throws a RangeError. */
export function encodeInto<F extends Fields>(
  layout: Struct<F>,
  values: Partial<ValuesOf<Struct<F>>>,
  out: Uint8Array,
  offset = 0,
): void {
  const view = new DataView(out.buffer, out.byteOffset + offset, layout.size);
  const given = values as Readonly<Record<string, number | bigint | string | Uint8Array | undefined>>;
  for (const [key, f] of Object.entries(layout.fields)) {
    const value = given[key];
    if (value === undefined) continue;
    const at = layout.offsets[key] as number;
    switch (f.kind) {
      case 'u8':
        view.setUint8(at, value as number);
        break;
      case 'u16':
        view.setUint16(at, value as number, true);
        break;
      case 'u32':
        view.setUint32(at, value as number, true);
        break;
      case 's32':
        view.setInt32(at, value as number, true);
        break;
      case 'u64':
        view.setBigUint64(at, value as bigint, true);
        break;
      case 'text':
      case 'bytes': {
        const raw = typeof value === 'string' ? encoder.encode(value) : (value as Uint8Array);
        if (raw.length > f.size) {
          throw new RangeError(`${layout.name}.${key}: ${raw.length} bytes do not fit into ${f.size}`);
        }
        out.set(raw, offset + at);
        break;
      }
    }
  }
}

export function encode<F extends Fields>(
  layout: Struct<F>,
  values: Partial<ValuesOf<Struct<F>>>,
): Uint8Array {
  const out = new Uint8Array(layout.size);
  encodeInto(layout, values, out);
  return out;
}

/** Read a struct at `offset`. Throws a RangeError where `raw` is too short. Byte fields are copied out. */
export function decode<F extends Fields>(
  layout: Struct<F>,
  raw: Uint8Array,
  offset = 0,
): ValuesOf<Struct<F>> {
  if (offset < 0 || offset + layout.size > raw.length) {
    throw new RangeError(`${layout.name} needs ${layout.size} bytes at ${offset}, ${raw.length} are there`);
  }
  const view = new DataView(raw.buffer, raw.byteOffset + offset, layout.size);
  const values: Record<string, number | bigint | string | Uint8Array> = {};
  for (const [key, f] of Object.entries(layout.fields)) {
    const at = layout.offsets[key] as number;
    switch (f.kind) {
      case 'u8':
        values[key] = view.getUint8(at);
        break;
      case 'u16':
        values[key] = view.getUint16(at, true);
        break;
      case 'u32':
        values[key] = view.getUint32(at, true);
        break;
      case 's32':
        values[key] = view.getInt32(at, true);
        break;
      case 'u64':
        values[key] = view.getBigUint64(at, true);
        break;
      case 'text':
        values[key] = textOf(raw.subarray(offset + at, offset + at + f.size));
        break;
      case 'bytes':
        // Not slice(): that of a Buffer gives a view.
        values[key] = Uint8Array.from(raw.subarray(offset + at, offset + at + f.size));
        break;
    }
  }
  return values as ValuesOf<Struct<F>>;
}
