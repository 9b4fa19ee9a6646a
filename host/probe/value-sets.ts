// SPDX-License-Identifier: Apache-2.0

/** Named values: `.vesper.values` → sets by name. Where names compete, the first one in the source is preferred. */

import { type valueDescriptor, valueKinds } from '../wire/descriptor.ts';
import type { ValuesOf } from '../wire/struct.ts';
import type { ValueSet } from './declaration.ts';
import type { ElfFile } from './elf.ts';
import { enumName, identifier, nameOf, once } from './names.ts';

type Entry = ValuesOf<typeof valueDescriptor>;

/** Sets as declared; values are 64 unsigned bits. */
export function readValueSets(elf: ElfFile, entries: readonly Entry[]): ReadonlyMap<string, ValueSet> {
  once(elf, entries, ({ set, name }) => `value "${name}" of set "${set}"`);
  const sets = new Map<string, ValueSet>();
  for (const [name, members] of Map.groupBy(entries, ({ set }) => set))
    sets.set(name, readSet(elf, name, members));
  return sets;
}

function readSet(elf: ElfFile, set: string, entries: readonly Entry[]): ValueSet {
  const name = identifier(elf, set, 'set of values');
  const kinds = new Set(
    entries.map((entry) => enumName(elf, valueKinds, entry.kind, `kind of set "${name}"`)),
  );
  if (kinds.size > 1) throw elf.bad(`set "${name}" mixes values and flags`);
  const kind = kinds.has('flag') ? 'flag' : 'enum';
  const values = entries.map(({ value, name: raw }) => ({
    value,
    name: nameOf(elf, raw, /^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/, 'value'),
  }));
  // The bits of a flag may not exist in a kernel that was configured without it.
  return { name, kind, values: kind === 'flag' ? values.filter(({ value }) => value !== 0n) : values };
}

/**
 * The set as a field of that size reads it. C may have written a bit pattern with or without its sign extended; what
 * fits the field neither way can never be read and is left out.
 */
export function valuesForField(set: ValueSet, bytes: number, signed: boolean): ValueSet {
  const bits = bytes * 8;
  const values = set.values.flatMap(({ value, name }) => {
    const pattern = BigInt.asUintN(bits, value);
    const number = BigInt.asIntN(bits, value);
    if (value !== pattern && value !== BigInt.asUintN(64, number)) return [];
    return [{ value: signed ? number : pattern, name }];
  });
  return { ...set, values };
}
