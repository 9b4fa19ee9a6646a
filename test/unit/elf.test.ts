// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VesperError } from '../../host/error.ts';
import { ElfFile } from '../../host/probe/elf.ts';
import { parseImage } from '../../host/probe/image.ts';
import { builtModules } from '../fixtures/built-probes.ts';
import { elf, moduleImage, symbolSections } from '../fixtures/module-image.ts';

const image = moduleImage();

/** A copy with some bytes replaced. */
function patched(at: number, ...bytes: number[]): Uint8Array {
  const copy = image.slice();
  copy.set(bytes, at);
  return copy;
}

const problemOf = (bytes: Uint8Array): string => {
  try {
    const file = new ElfFile(bytes, 'bad.ko');
    file.undefinedSymbols();
  } catch (error) {
    expect(error).toBeInstanceOf(VesperError);
    expect((error as VesperError).code).toBe('BAD_IMAGE');
    return (error as VesperError).message;
  }
  throw new Error('it was taken');
};

describe('an ELF relocatable', () => {
  it('gives its machine, sections and symbols', () => {
    const text = { name: '.text', bytes: new Uint8Array([0x90, 0xc3]), flags: 6 };
    const file = new ElfFile(
      elf([
        text,
        ...symbolSections(
          [{ name: 'start', section: 1 }, { name: 'printk' }, { name: 'maybe', weak: true }],
          2,
        ),
      ]),
      'a.ko',
    );
    expect(file.machine).toBe('x86_64');
    expect(file.sections.map(({ name }) => name)).toEqual(['', '.text', '.symtab', '.strtab', '.shstrtab']);
    const section = file.allocatedSection('.text');
    expect(section && file.contents(section)).toEqual(text.bytes);
    expect(file.allocatedSection('.symtab')).toBeUndefined();
    expect(file.undefinedSymbols()).toEqual([
      { name: 'printk', weak: false },
      { name: 'maybe', weak: true },
    ]);
  });

  it('knows the machines of guests by the names uname has for them', () => {
    expect(new ElfFile(elf([], 183), 'a.ko').machine).toBe('aarch64');
    expect(new ElfFile(elf([], 999), 'a.ko').machine).toBe('machine 999');
  });
});

describe('a file that is no relocatable', () => {
  it.each([
    [new Uint8Array(), 'it is empty'],
    [Buffer.from('#!/bin/sh\n'), 'it is not an ELF file: it starts with "#!/b"'],
    [new Uint8Array([0, 1, 2]), 'it is not an ELF file: it starts with bytes 000102'],
    [patched(4, 1), 'it is a 32-bit file'],
    [patched(5, 2), 'it is big-endian'],
    [patched(16, 2), 'it is a program, not a relocatable object'],
    [patched(16, 9), 'it is ELF type 9'],
    [patched(60, 0, 0), 'it has no sections'],
    [patched(58, 40), 'its section headers are 40 bytes long instead of 64'],
    [patched(62, 0xff, 0xff), 'its section names are said to be in section 65535'],
    [image.subarray(0, 30), 'it is truncated at byte 30: its header ends at byte 64'],
    [image.subarray(0, 2000), `it is truncated at byte 2000: its section table ends at byte ${image.length}`],
    [patched(47, 0xff), 'it is truncated at byte'],
  ])('is refused with the reason, %#', (bytes, reason) => {
    expect(problemOf(bytes)).toContain(`bad.ko is not a usable probe image: ${reason}`);
  });

  it('whose section reaches out of it is refused', () => {
    const start = Number(new DataView(image.buffer).getBigUint64(40, true));
    expect(problemOf(patched(start + 64 + 32, 0xff, 0xff, 0xff, 0x7f))).toMatch(
      /truncated at byte \d+: its section 1 ends/,
    );
    expect(problemOf(patched(start + 64 + 24, 255, 255, 255, 255, 255, 255, 255, 255))).toMatch(
      /its section 1 ends/,
    );
  });

  it('whose section is named outside of the names is refused', () => {
    const start = Number(new DataView(image.buffer).getBigUint64(40, true));
    expect(problemOf(patched(start + 64, 0xff, 0xff, 0xff))).toContain(
      'the name of section 1 lies outside of the string table',
    );
  });

  it('with more symbols than any module needs is refused', () => {
    const many = Array.from({ length: 16385 }, (_, at) => ({ name: `s${at}` }));
    expect(problemOf(elf(symbolSections(many, 1)))).toContain('it needs more than 16384 symbols');
  });

  it('with a name without an end is refused, so that names cannot eat the time', () => {
    const long = elf(symbolSections([{ name: 'x'.repeat(2000) }], 1));
    expect(problemOf(long)).toContain('the name of symbol 1 is longer than 1024 bytes');
  });
});

/** Whatever the bytes: a declaration or a BAD_IMAGE, in bounded time, never another error. */
function isReadOrRefused(bytes: Uint8Array): void {
  try {
    parseImage(bytes, 'fuzz.ko');
  } catch (error) {
    if (!(error instanceof VesperError) || error.code !== 'BAD_IMAGE') throw error;
    expect(error.message).toMatch(/^fuzz\.ko is not a usable probe image: .+\.$/s);
  }
}

describe('hostile files', () => {
  const mutations = fc.array(
    fc.tuple(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), fc.nat(255)),
    {
      minLength: 1,
      maxLength: 12,
    },
  );
  const hot = (length: number) => fc.constantFrom(...[24, 32, 40, 58, 60, 62].filter((at) => at < length));

  it.each<readonly [string, () => Uint8Array]>([
    ['made of tables', () => image],
    ...builtModules('signal').map((path) => [path, () => readFileSync(path)] as const),
  ])('mutated from one %s are read or refused', (_name, load) => {
    const original = new Uint8Array(load());
    expect(() => parseImage(original, 'original.ko')).not.toThrow();
    const table = Number(new DataView(original.buffer, original.byteOffset).getBigUint64(40, true));
    fc.assert(
      fc.property(mutations, fc.boolean(), (changes, inHeaders) => {
        const bytes = original.slice();
        const [from, length] = inHeaders ? [table, original.length - table] : [0, original.length];
        for (const [where, value] of changes) bytes[from + Math.floor(where * length)] = value;
        isReadOrRefused(bytes);
      }),
      { numRuns: 1500 },
    );
    fc.assert(
      fc.property(hot(64), fc.nat(0xffff), (at, value) => {
        const bytes = original.slice();
        bytes[at] = value & 0xff;
        bytes[at + 1] = value >> 8;
        isReadOrRefused(bytes);
      }),
      { numRuns: 300 },
    );
  });

  it('cut off anywhere are refused', () => {
    for (const path of builtModules('oom')) {
      const original = readFileSync(path);
      for (let length = 0; length < original.length; length += 97) {
        expect(() => parseImage(original.subarray(0, length), 'cut.ko')).toThrow(VesperError);
      }
    }
  });

  it('made of noise are refused', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 4096 }), (bytes) => isReadOrRefused(bytes)));
  });
});
