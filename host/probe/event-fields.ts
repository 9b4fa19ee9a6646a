// SPDX-License-Identifier: Apache-2.0

/** The fields of one event: `.vesper.fields` entries → FieldDeclarations that lie in the payload and do not overlap. */

import { type fieldDescriptor, fieldTypes, roles, units } from '../wire/descriptor.ts';
import type { ValuesOf } from '../wire/struct.ts';
import type { FieldDeclaration, FieldType, Role, Unit, ValueSet } from './declaration.ts';
import type { ElfFile } from './elf.ts';
import { enumName, identifier, once } from './names.ts';
import { valuesForField } from './value-sets.ts';

type Entry = ValuesOf<typeof fieldDescriptor>;

/** Bytes of the numbers; text has a length of its own. */
const numberBytes: Readonly<Partial<Record<FieldType, number>>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  s8: 1,
  s16: 2,
  s32: 4,
  s64: 8,
};

const numberRoles: ReadonlySet<Role> = new Set<Role>(['value', 'pid', 'uid', 'address']);

/** By offset, which is the order of the C struct. */
export function readFields(
  elf: ElfFile,
  event: string,
  payloadBytes: number,
  entries: readonly Entry[],
  sets: ReadonlyMap<string, ValueSet>,
): readonly FieldDeclaration[] {
  once(elf, entries, ({ name }) => `field "${name}" of event "${event}"`);
  const fields = entries
    .map((entry) => readField(elf, event, entry, sets))
    .sort((a, b) => a.offset - b.offset);
  let end = 0;
  let before = '';
  for (const field of fields) {
    const what = `field "${field.name}" of event "${event}"`;
    if (field.offset < end)
      throw elf.bad(`${what} at byte ${field.offset} overlaps "${before}", which ends at byte ${end}`);
    end = field.offset + field.size;
    before = field.name;
    if (end > payloadBytes)
      throw elf.bad(`${what} ends at byte ${end} of a payload of ${payloadBytes} bytes`);
  }
  return fields;
}

function readField(
  elf: ElfFile,
  event: string,
  entry: Entry,
  sets: ReadonlyMap<string, ValueSet>,
): FieldDeclaration {
  const name = identifier(elf, entry.name, `field of event "${event}"`);
  const what = `field "${name}" of event "${event}"`;
  const type = enumName(elf, fieldTypes, entry.type, `type of ${what}`) as FieldType;
  const role = enumName(elf, roles, entry.role, `role of ${what}`) as Role;
  const unit = enumName(elf, units, entry.unit, `unit of ${what}`) as Unit;
  if (entry.reserved !== 0) throw elf.bad(`${what} uses a reserved field; it was made for a newer host`);
  checkSize(elf, what, type, entry);
  if (type === 'text' && numberRoles.has(role))
    throw elf.bad(`${what} is text and cannot have the role ${role}`);
  if (type !== 'text' && role === 'comm') throw elf.bad(`${what} is a number and cannot have the role comm`);
  return {
    name,
    type,
    offset: entry.offset,
    size: entry.size,
    role,
    unit,
    doc: entry.doc,
    values: valuesOf(elf, what, type, entry, sets),
  };
}

function checkSize(elf: ElfFile, what: string, type: FieldType, { offset, size }: Entry): void {
  const expected = numberBytes[type];
  if (expected === undefined) {
    if (size === 0) throw elf.bad(`${what} is a text of 0 bytes`);
    return;
  }
  if (size !== expected) {
    const hint = size > expected ? ' (arrays of numbers are not supported: declare a field for each)' : '';
    throw elf.bad(`${what} has ${size} bytes, its type ${type} has ${expected}${hint}`);
  }
  if (offset % expected !== 0) throw elf.bad(`${what} at byte ${offset} is not aligned to its size`);
}

function valuesOf(
  elf: ElfFile,
  what: string,
  type: FieldType,
  entry: Entry,
  sets: ReadonlyMap<string, ValueSet>,
): ValueSet | undefined {
  if (entry.values === '') return undefined;
  const set = sets.get(entry.values);
  if (set === undefined)
    throw elf.bad(`${what} takes its names from set "${entry.values}", which is not declared`);
  if (type === 'text') throw elf.bad(`${what} is text and cannot take names from set "${set.name}"`);
  return valuesForField(set, entry.size, type.startsWith('s'));
}
