// SPDX-License-Identifier: Apache-2.0

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ElfFile } from '../../host/probe/elf.ts';
import { readModuleInfo } from '../../host/probe/modinfo.ts';
import { builtModules } from '../fixtures/built-probes.ts';
import { elf, type ModuleParts, modinfo, moduleImage } from '../fixtures/module-image.ts';

const infoOf = (parts: ModuleParts) => readModuleInfo(new ElfFile(moduleImage(parts), 'a.ko'));

describe('a module', () => {
  it('says what modinfo prints', () => {
    expect(infoOf({})).toMatchObject({
      name: 'fixture',
      version: '1.2.3',
      description: 'A module for tests',
      author: 'Somebody <s@example.org>',
      license: 'GPL',
      vermagic: '6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions',
      depends: ['vesper'],
      parameters: [
        { name: 'list', type: 'array of uint', doc: '' },
        { name: 'threshold', type: 'int', doc: 'least value' },
      ],
      signed: false,
    });
  });

  it('needs its undefined symbols in the versions it was built against, and module_layout', () => {
    const { symbols } = infoOf({
      symbols: [
        { name: '_printk' },
        { name: 'unversioned' },
        { name: 'maybe', weak: true },
        { name: 'own', section: 1 },
      ],
    });
    expect(symbols).toEqual([
      { name: '_printk', crc: 0x12345678, weak: false },
      { name: 'unversioned', crc: undefined, weak: false },
      { name: 'maybe', crc: undefined, weak: true },
      { name: 'module_layout', crc: 0xa3520939, weak: false },
    ]);
  });

  it('joins several authors and keeps a description of several lines on one', () => {
    const info = infoOf({ modinfo: ['author=A', 'author=B', 'description=one\n\ttwo', 'license=GPL'] });
    expect(info.author).toBe('A, B');
    expect(info.description).toBe('one two');
  });

  it('cannot smuggle control characters to a terminal', () => {
    expect(infoOf({ modinfo: ['description=\x1b[31mred', 'license=GPL'] }).description).toBe('\\x1b[31mred');
  });

  it('takes its name from struct module where modinfo has none', () => {
    expect(infoOf({ name: 'other', modinfo: ['license=GPL'] }).name).toBe('other');
    expect(() => infoOf({ name: '../x', modinfo: [] })).toThrow('"../x" is no name of a module');
  });

  it('is signed where the marker stands at its very end', () => {
    expect(infoOf({ signed: true }).signed).toBe(true);
    expect(infoOf({ modinfo: [...modinfo, 'x=~Module signature appended~\n'] }).signed).toBe(false);
  });

  it('is told from an object file', () => {
    expect(() => readModuleInfo(new ElfFile(elf([]), 'a.o'))).toThrow(
      'a.o is not a usable probe image: it has no .modinfo section',
    );
    const object = elf([{ name: '.modinfo', bytes: Buffer.from('license=GPL\0'), flags: 2 }]);
    expect(() => readModuleInfo(new ElfFile(object, 'a.o'))).toThrow(
      'it is an object file, not a finished module (.ko)',
    );
  });
});

describe('built modules', () => {
  it.each(builtModules())('%s reads as modinfo and nm read it', (path) => {
    const info = readModuleInfo(new ElfFile(readFileSync(path), path));
    const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };
    const field = (name: string) =>
      execFileSync('modinfo', ['-F', name, path], { encoding: 'utf8', env }).trim();
    expect(info.license).toBe(field('license'));
    expect(info.vermagic).toBe(field('vermagic'));
    expect(info.version).toBe(field('version'));
    expect(info.depends.join(',')).toBe(field('depends'));
    const parameters = field('parm')
      .split('\n')
      .filter(Boolean)
      .map((line) => line.split(':')[0]);
    expect(info.parameters.map(({ name }) => name)).toEqual(parameters.sort());
    const undefinedSymbols = execFileSync('nm', ['-u', path], { encoding: 'utf8' }).trim().split('\n');
    expect(
      info.symbols
        .map(({ name }) => name)
        .filter((name) => name !== 'module_layout')
        .sort(),
    ).toEqual(undefinedSymbols.map((line) => line.trim().split(' ').at(-1)).sort());
    expect(info.symbols.find(({ name }) => name === 'module_layout')?.crc).toBeGreaterThan(0);
  });
});
