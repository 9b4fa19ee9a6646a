// SPDX-License-Identifier: Apache-2.0

/** Names that a probe's descriptors give to things: they become JSON keys, metric names and columns. */

import type { ElfFile } from './elf.ts';

/** A C identifier. A double underscore in front is refused: it is reserved, in C and in metrics. */
export function identifier(elf: ElfFile, name: string, what: string): string {
  return nameOf(elf, name, /^(?!__)[A-Za-z_][A-Za-z0-9_]*$/, what);
}

export function nameOf(elf: ElfFile, name: string, pattern: RegExp, what: string): string {
  if (!pattern.test(name)) throw elf.bad(`"${name}" is no name for a ${what}`);
  return name;
}

/** Lower-case name of a number of one of the wire's tables. */
export function enumName<T extends Readonly<Record<string, { readonly value: number }>>>(
  elf: ElfFile,
  table: T,
  value: number,
  what: string,
): string {
  for (const [name, entry] of Object.entries(table)) {
    if (entry.value === value) return name.toLowerCase();
  }
  throw elf.bad(`the ${what} is ${value}, which this host does not know`);
}

/** Refuses two entries of which `key` says the same. */
export function once<T>(elf: ElfFile, entries: readonly T[], key: (entry: T) => string): void {
  const seen = new Set<string>();
  for (const entry of entries) {
    const name = key(entry);
    if (seen.has(name)) throw elf.bad(`it declares ${name} twice`);
    seen.add(name);
  }
}
