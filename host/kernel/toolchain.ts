// SPDX-License-Identifier: Apache-2.0

import { chmodSync, closeSync, openSync, readdirSync, readSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runCommand } from './command.ts';

/**
 * Whether the kernel's kbuild tools and its compiler run on this host as they are. They do not where the suite's C
 * library is newer than the host's.
 */
export async function hostToolchainFits(kbuild: string, compiler: string): Promise<boolean> {
  try {
    const fixdep = await runCommand(join(kbuild, 'scripts/basic/fixdep'), [], { accept: [0, 1, 2] });
    await runCommand(compiler, ['--version']);
    return /usage/i.test(fixdep.output);
  } catch {
    return false; // The loader or the compiler said no: exactly the answer that was asked for.
  }
}

/**
 * Makes the programs below `directories` run with the C library unpacked in `sysroot`: each is replaced by a shell
 * script that starts it through the sysroot's dynamic loader. Works without root, a chroot or a patched ELF; the
 * library path goes to the loader as an argument, so programs of the host that these start are not affected.
 *
 * @param finalSysroot where `sysroot` will lie when it is finished: the scripts name it.
 */
export function wrapPrograms(sysroot: string, finalSysroot: string, directories: readonly string[]): void {
  const libraries = ['usr/lib/x86_64-linux-gnu', 'lib/x86_64-linux-gnu'].map((path) =>
    join(finalSysroot, path),
  );
  const loader = join(finalSysroot, 'usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2');
  for (const directory of directories) {
    for (const entry of readdirSync(join(sysroot, directory), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (!entry.isFile() || !isDynamicProgram(path)) continue;
      renameSync(path, `${path}.elf`);
      const final = finalSysroot + path.slice(sysroot.length);
      const command = [loader, '--library-path', libraries.join(':'), '--argv0', final, `${final}.elf`];
      writeFileSync(path, `#!/bin/sh\nexec ${command.map(quote).join(' ')} "$@"\n`);
      chmodSync(path, 0o755);
    }
  }
}

function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** An x86-64 ELF file that asks for a dynamic loader. */
function isDynamicProgram(path: string): boolean {
  const head = Buffer.alloc(4096);
  const file = openSync(path, 'r');
  let size: number;
  try {
    size = readSync(file, head, 0, head.length, 0);
  } finally {
    closeSync(file);
  }
  return size > 64 && head.readUInt32BE(0) === 0x7f454c46 && head.includes('/lib64/ld-linux-x86-64.so.2\0');
}
