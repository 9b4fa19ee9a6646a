// SPDX-License-Identifier: Apache-2.0

/**
 * ELF64 little-endian relocatables (what `cc -c` and the kernel's module build write), read only. Every byte of the file
 * is hostile input: each failure is a BAD_IMAGE that names the file and what is wrong with it. Reads nothing twice and
 * copies nothing.
 *
 * Source: System V ABI, gABI 4.1, chapter 4; the order of checks follows the kernel's elf_validity_check().
 */

import { VesperError } from '../error.ts';
import { textOf } from '../wire/struct.ts';

const headerBytes = 64;
const sectionBytes = 64;
const symbolBytes = 24;
const relocatable = 1;
/** Twice KSYM_NAME_LEN. Together with the next one it bounds the work on a hostile file, whose names may overlap. */
const nameMax = 1024;
/** The modules of Debian's 6.1 cloud kernel need at most 570. */
const undefinedMax = 16384;
const sectionTypes = { SYMTAB: 2, RELA: 4, NOBITS: 8, REL: 9 } as const;
const localBinding = 0;
const weakBinding = 2;
const allocated = 2n;
const compressed = 0x800n;

/** e_machine, under the names `uname -m` has for them. */
const machines: Readonly<Record<number, string>> = {
  3: 'i386',
  8: 'mips',
  20: 'ppc',
  21: 'ppc64le',
  22: 's390x',
  40: 'arm',
  62: 'x86_64',
  183: 'aarch64',
  243: 'riscv64',
  247: 'bpf',
  258: 'loongarch64',
};

const fileTypes: Readonly<Record<number, string>> = {
  2: 'a program',
  3: 'a shared library',
  4: 'a core dump',
};

export interface ElfSection {
  readonly index: number;
  readonly name: string;
  readonly type: number;
  /** Part of the memory image: the kernel ignores sections that are not. */
  readonly allocated: boolean;
  /** In the file, in bytes. */
  readonly offset: number;
  readonly size: number;
  readonly link: number;
  readonly info: number;
}

/** A symbol that is to be found in the kernel or in another module. */
export interface UndefinedSymbol {
  readonly name: string;
  /** May be missing there. */
  readonly weak: boolean;
}

export class ElfFile {
  /** As given: for messages. */
  readonly file: string;
  readonly bytes: Uint8Array;
  /** `x86_64`, `aarch64`, …; `machine 1234` where it has no name here. */
  readonly machine: string;
  readonly sections: readonly ElfSection[];
  readonly #view: DataView;

  constructor(bytes: Uint8Array, file: string) {
    this.file = file;
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.machine = this.#checkHeader();
    this.sections = this.#readSections();
  }

  /** A BAD_IMAGE error about this file. */
  bad(what: string): VesperError {
    return badImage(this.file, what);
  }

  /** First section of that name that is part of the memory image: the one the kernel takes. */
  allocatedSection(name: string): ElfSection | undefined {
    return this.sections.find((section) => section.allocated && section.name === name);
  }

  /** Bytes of a section, not copied. Empty for one that takes no room in the file. */
  contents(section: ElfSection): Uint8Array {
    return section.type === sectionTypes.NOBITS
      ? this.bytes.subarray(0, 0)
      : this.bytes.subarray(section.offset, section.offset + section.size);
  }

  /** Whether the linker or loader still has to patch bytes of that section. */
  isRelocated(section: ElfSection): boolean {
    return this.sections.some(
      ({ type, info, size }) =>
        (type === sectionTypes.RELA || type === sectionTypes.REL) && info === section.index && size > 0,
    );
  }

  /** None where the file was stripped of its symbol table. */
  undefinedSymbols(): readonly UndefinedSymbol[] {
    const tables = this.sections.filter((section) => section.type === sectionTypes.SYMTAB);
    const [table] = tables;
    if (table === undefined) return [];
    if (tables.length > 1) throw this.bad(`it has ${tables.length} symbol tables`);
    if (table.size % symbolBytes !== 0) {
      throw this.bad(`its symbol table of ${table.size} bytes is no multiple of ${symbolBytes}`);
    }
    const names = this.#strings(table.link, 'symbol table');
    const symbols: UndefinedSymbol[] = [];
    for (let index = 1; index < table.size / symbolBytes; index++) {
      const at = table.offset + index * symbolBytes;
      const binding = this.#view.getUint8(at + 4) >> 4;
      const section = this.#view.getUint16(at + 6, true);
      if (section !== 0 || binding === localBinding) continue;
      if (symbols.length === undefinedMax) throw this.bad(`it needs more than ${undefinedMax} symbols`);
      const name = this.#text(names, this.#view.getUint32(at, true), `symbol ${index}`);
      symbols.push({ name, weak: binding === weakBinding });
    }
    return symbols;
  }

  /** Checks what does not depend on sections; returns the machine. */
  #checkHeader(): string {
    const view = this.#view;
    const length = this.bytes.length;
    if (length === 0) throw this.bad('it is empty');
    if (length < 4 || view.getUint32(0) !== 0x7f454c46) {
      throw this.bad(`it is not an ELF file: it starts with ${startOf(this.bytes)}`);
    }
    if (length < headerBytes) throw this.#truncated('its header', headerBytes);
    if (view.getUint8(4) !== 2) throw this.bad('it is a 32-bit file; probes are built for 64-bit kernels');
    if (view.getUint8(5) !== 1) throw this.bad('it is big-endian; only little-endian machines are supported');
    const type = view.getUint16(16, true);
    if (type !== relocatable) {
      const found = fileTypes[type] ?? `ELF type ${type}`;
      throw this.bad(`it is ${found}, not a relocatable object as a kernel module is`);
    }
    const machine = view.getUint16(18, true);
    return machines[machine] ?? `machine ${machine}`;
  }

  #readSections(): readonly ElfSection[] {
    const view = this.#view;
    const start = this.#u64(40);
    const entry = view.getUint16(58, true);
    const count = view.getUint16(60, true);
    const namesAt = view.getUint16(62, true);
    if (count === 0 || start === 0) throw this.bad('it has no sections');
    if (entry !== sectionBytes)
      throw this.bad(`its section headers are ${entry} bytes long instead of ${sectionBytes}`);
    if (start + count * sectionBytes > this.bytes.length) {
      throw this.#truncated('its section table', start + count * sectionBytes);
    }
    if (namesAt === 0 || namesAt >= count)
      throw this.bad(`its section names are said to be in section ${namesAt}`);
    const names = this.#sectionBounds(start + namesAt * sectionBytes, namesAt);
    this.#checkStrings(names, 'section names');
    return Array.from({ length: count }, (_, index) => {
      const at = start + index * sectionBytes;
      const flags = view.getBigUint64(at + 8, true);
      // The first header describes nothing: the kernel insists on zeros, we do not look.
      const bounds = index === 0 ? { offset: 0, size: 0 } : this.#sectionBounds(at, index);
      if ((flags & compressed) !== 0n && (flags & allocated) !== 0n) {
        throw this.bad(`section ${index} is compressed, which the kernel does not load`);
      }
      return {
        index,
        name: index === 0 ? '' : this.#text(names, view.getUint32(at, true), `section ${index}`),
        type: view.getUint32(at + 4, true),
        allocated: (flags & allocated) !== 0n,
        ...bounds,
        link: view.getUint32(at + 40, true),
        info: view.getUint32(at + 44, true),
      };
    });
  }

  #sectionBounds(header: number, index: number): { offset: number; size: number } {
    const offset = this.#u64(header + 24);
    const size = this.#u64(header + 32);
    const inFile = this.#view.getUint32(header + 4, true) !== sectionTypes.NOBITS;
    if (inFile && offset + size > this.bytes.length)
      throw this.#truncated(`its section ${index}`, offset + size);
    return { offset, size };
  }

  #strings(index: number, user: string): { offset: number; size: number } {
    const section = this.sections[index];
    if (section === undefined || section.type === sectionTypes.NOBITS) {
      throw this.bad(`its ${user} takes names from section ${index}, which has none`);
    }
    this.#checkStrings(section, user);
    return section;
  }

  /** A table of strings starts and ends with a NUL, so no name can run out of it. */
  #checkStrings({ offset, size }: { offset: number; size: number }, user: string): void {
    if (size === 0 || this.bytes[offset] !== 0 || this.bytes[offset + size - 1] !== 0) {
      throw this.bad(`the string table of its ${user} does not start and end with NUL`);
    }
  }

  #text({ offset, size }: { offset: number; size: number }, at: number, user: string): string {
    if (at >= size) throw this.bad(`the name of ${user} lies outside of the string table`);
    const raw = this.bytes.subarray(offset + at, offset + Math.min(size, at + nameMax));
    if (!raw.includes(0)) throw this.bad(`the name of ${user} is longer than ${nameMax} bytes`);
    return textOf(raw);
  }

  /**
   * Numbers above 2^53 lose digits but stay large: they are only ever compared with the length of the file.
   */
  #u64(at: number): number {
    return Number(this.#view.getBigUint64(at, true));
  }

  #truncated(part: string, end: number): VesperError {
    return this.bad(`it is truncated at byte ${this.bytes.length}: ${part} ends at byte ${end}`);
  }
}

export function badImage(file: string, what: string): VesperError {
  return new VesperError('BAD_IMAGE', `${file} is not a usable probe image: ${what}.`, {
    data: { file, what },
  });
}

function startOf(bytes: Uint8Array): string {
  const start = Buffer.from(bytes.subarray(0, 4));
  return /^[\x20-\x7e]+$/.test(start.toString('latin1')) ? `"${start}"` : `bytes ${start.toString('hex')}`;
}
