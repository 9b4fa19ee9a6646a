// SPDX-License-Identifier: Apache-2.0

/** What a kernel module says of itself to the kernel: .modinfo, symbol versions, its name, its signature. */

import { decode, struct, text, textOf, u64 } from '../wire/struct.ts';
import type { ParameterDeclaration, SymbolNeed } from './declaration.ts';
import type { ElfFile } from './elf.ts';

export interface ModuleInfo {
  /** What the kernel calls it. */
  readonly name: string;
  readonly description: string;
  readonly license: string;
  /** Several authors are joined by commas. */
  readonly author: string;
  readonly version: string;
  readonly vermagic: string;
  /** Modules that have to be loaded before it. */
  readonly depends: readonly string[];
  /** Symbol namespaces it imports. */
  readonly namespaces: readonly string[];
  readonly parameters: readonly ParameterDeclaration[];
  readonly symbols: readonly SymbolNeed[];
  readonly signed: boolean;
}

/** struct modversion_info of include/linux/module.h on 64-bit machines. */
const modversion = struct('modversion_info', 'CRC of a symbol as the module was built against it.', {
  crc: u64('CRC'),
  name: text(56, 'symbol'),
});

/** In struct module: after `enum module_state state` and `struct list_head list`; the same in 6.1 and 6.12. */
const moduleNameOffset = 24;
const moduleNameBytes = 56;

/** include/linux/module_signature.h: MODULE_SIG_STRING */
const signatureMarker = new TextEncoder().encode('~Module signature appended~\n');

export function readModuleInfo(elf: ElfFile): ModuleInfo {
  const tags = readTags(elf);
  const first = (key: string) => tags.get(key)?.[0] ?? '';
  return {
    name: moduleName(elf, first('name')),
    description: first('description'),
    license: first('license'),
    author: (tags.get('author') ?? []).join(', '),
    version: first('version'),
    vermagic: first('vermagic').trim(),
    depends: first('depends').split(',').filter(Boolean),
    namespaces: tags.get('import_ns') ?? [],
    parameters: parameters(tags.get('parmtype') ?? [], tags.get('parm') ?? []),
    symbols: neededSymbols(elf),
    signed: isSigned(elf.bytes),
  };
}

/** Tags by key, in file order. */
function readTags(elf: ElfFile): ReadonlyMap<string, readonly string[]> {
  const section = elf.allocatedSection('.modinfo');
  if (section === undefined)
    throw elf.bad('it has no .modinfo section, so it is no kernel module (link it with Kbuild)');
  const raw = elf.contents(section);
  const tags = new Map<string, string[]>();
  for (let start = 0; start < raw.length; ) {
    const nul = raw.indexOf(0, start);
    const end = nul < 0 ? raw.length : nul;
    const entry = raw.subarray(start, end);
    const equals = entry.indexOf(0x3d);
    if (equals > 0) {
      const key = textOf(entry.subarray(0, equals));
      const values = tags.get(key) ?? [];
      values.push(oneLine(entry.subarray(equals + 1)));
      tags.set(key, values);
    }
    start = end + 1;
  }
  return tags;
}

/** Descriptions may go over several lines. */
function oneLine(raw: Uint8Array): string {
  return textOf(raw.map((byte) => (byte === 0x0a || byte === 0x09 ? 0x20 : byte))).replace(/ {2,}/g, ' ');
}

function moduleName(elf: ElfFile, tag: string): string {
  const section = elf.allocatedSection('.gnu.linkonce.this_module');
  if (section === undefined) {
    throw elf.bad(
      'it has no .gnu.linkonce.this_module section: it is an object file, not a finished module (.ko)',
    );
  }
  const raw = elf.contents(section).subarray(moduleNameOffset, moduleNameOffset + moduleNameBytes);
  const name = tag !== '' ? tag : textOf(raw);
  if (!/^[A-Za-z0-9_-]{1,55}$/.test(name)) throw elf.bad(`"${name}" is no name of a module`);
  return name.replaceAll('-', '_');
}

/** `parmtype=name:type` and `parm=name:text`; a parameter may have only one of them. By name: gcc turns their order round. */
function parameters(types: readonly string[], docs: readonly string[]): readonly ParameterDeclaration[] {
  const declared = new Map<string, { name: string; type: string; doc: string }>();
  for (const [key, entries] of [
    ['type', types],
    ['doc', docs],
  ] as const) {
    for (const entry of entries) {
      const colon = entry.indexOf(':');
      const name = colon < 0 ? entry : entry.slice(0, colon);
      const parameter = declared.get(name) ?? { name, type: '', doc: '' };
      parameter[key] = colon < 0 ? '' : entry.slice(colon + 1);
      declared.set(name, parameter);
    }
  }
  return [...declared.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Undefined symbols, and `module_layout`, which the kernel checks though no symbol table has it. */
function neededSymbols(elf: ElfFile): readonly SymbolNeed[] {
  const crcs = symbolCrcs(elf);
  const weak = new Map<string, boolean>();
  for (const symbol of elf.undefinedSymbols()) if (symbol.name !== '') weak.set(symbol.name, symbol.weak);
  if (crcs.has('module_layout')) weak.set('module_layout', false);
  return [...weak].map(([name, isWeak]) => ({ name, crc: crcs.get(name), weak: isWeak }));
}

function symbolCrcs(elf: ElfFile): ReadonlyMap<string, number> {
  const section = elf.allocatedSection('__versions');
  const crcs = new Map<string, number>();
  if (section === undefined) return crcs;
  const raw = elf.contents(section);
  if (raw.length % modversion.size !== 0) {
    throw elf.bad(`its __versions section of ${raw.length} bytes is no multiple of ${modversion.size}`);
  }
  for (let at = 0; at < raw.length; at += modversion.size) {
    const { name, crc } = decode(modversion, raw, at);
    crcs.set(name, Number(BigInt.asUintN(32, crc)));
  }
  return crcs;
}

function isSigned(bytes: Uint8Array): boolean {
  const tail = bytes.subarray(Math.max(0, bytes.length - signatureMarker.length));
  return tail.length === signatureMarker.length && tail.every((byte, at) => byte === signatureMarker[at]);
}
