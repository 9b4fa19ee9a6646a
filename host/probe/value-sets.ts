// SPDX-License-Identifier: Apache-2.0

/** Named values: `.vesper.values` → sets by name. */

import { type valueDescriptor, valueKinds } from '../wire/descriptor.ts';
import type { ValuesOf } from '../wire/struct.ts';
import type { ValueSet } from './declaration.ts';
import type { ElfFile } from './elf.ts';
import { enumName, identifier, nameOf, once } from './names.ts';

type Entry = ValuesOf<typeof valueDescriptor>;

/** Sets as declared, ordered by value; values are 64 unsigned bits. */
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
  once(elf, entries, ({ value }) => `value ${value} of set "${name}"`);
  return {
    name,
    kind,
    values: entries
      .toSorted((a, b) => (a.value < b.value ? -1 : 1))
      .map((entry) => {
        if (kind === 'flag' && entry.value === 0n)
          throw elf.bad(`flag "${entry.name}" of set "${name}" has no bits`);
        return {
          value: entry.value,
          name: nameOf(elf, entry.name, /^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/, 'value'),
        };
      }),
  };
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
