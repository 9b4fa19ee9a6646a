// SPDX-License-Identifier: Apache-2.0

/** Which symbols a kernel offers to modules, and their versions: `Module.symvers`, as kernel headers bring it. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface ExportedSymbol {
  readonly crc: number;
  readonly gplOnly: boolean;
  /** Empty: none. */
  readonly namespace: string;
  /** `vmlinux`, or the module that has to be loaded. */
  readonly module: string;
}

/** By name; holds all symbols of that kernel, so that one which is not there does not exist. */
export type KernelSymbols = ReadonlyMap<string, ExportedSymbol>;

/** Folders in which distributions put the headers of a kernel release. */
const headerRoots = (release: string): readonly string[] => [
  join('/lib/modules', release, 'build'),
  join('/usr/src', `linux-headers-${release}`),
  join('/usr/src/kernels', release),
];

/** Lines `crc name module EXPORT_SYMBOL[_GPL] [namespace]`, separated by tabs. Other lines are passed over. */
export function parseSymvers(text: string): KernelSymbols {
  const symbols = new Map<string, ExportedSymbol>();
  for (const line of text.split('\n')) {
    const [crc = '', name = '', module = '', kind = '', namespace = ''] = line.split('\t');
    if (!/^0x[0-9a-f]{1,8}$/i.test(crc) || name === '') continue;
    symbols.set(name, { crc: Number(crc), gplOnly: kind.endsWith('_GPL'), namespace, module });
  }
  return symbols;
}

/**
 * Symbols of a kernel release whose headers are on this machine; undefined where they are not. `directories` are searched
 * before the system's places.
 */
export async function findSymvers(
  release: string,
  directories: readonly string[] = [],
): Promise<KernelSymbols | undefined> {
  if (!/^[\w.+~-]+$/.test(release)) return undefined;
  for (const directory of [...directories, ...headerRoots(release)]) {
    try {
      const symbols = parseSymvers(await readFile(join(directory, 'Module.symvers'), 'utf8'));
      if (symbols.has('module_layout')) return symbols;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT' && code !== 'ENOTDIR' && code !== 'EACCES') throw error;
    }
  }
  return undefined;
}
