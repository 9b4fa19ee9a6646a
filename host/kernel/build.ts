// SPDX-License-Identifier: Apache-2.0

import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { VesperError } from '../error.ts';
import { runCommand } from './command.ts';
import type { KernelHeaders } from './fetch.ts';

/** Kernel modules that are built in one go, out of tree, with Kbuild. */
export interface ModuleSet {
  /** Names the object folder: 'frontend', 'probes', … */
  readonly name: string;
  /**
   * One folder a module. A folder with a `Kbuild` of its own is taken as it is; any other holds `<folder>.c`, and
   * the Kbuild is made up.
   */
  readonly sources: readonly string[];
  /** Folders for `#include <vesper/…>`. */
  readonly includes?: readonly string[];
  /** `Module.symvers` of the modules these depend on. */
  readonly symvers?: string;
  /** Let modules name symbols that no kernel has; fixtures that must fail to load need it. */
  readonly allowUndefined?: boolean;
}

export interface BuildOptions {
  /** Where objects go; kept between builds. */
  readonly objects: string;
  /** Where the stripped modules and `Module.symvers` go. */
  readonly output: string;
  /** Only check: compile apart, run sparse with endian checks as well, take any warning for an error. */
  readonly check?: boolean;
  readonly progress?: (line: string) => void;
}

/** genksyms of 6.1 takes all memory of the machine on some declarations: it shall fail instead. */
const memoryLimitBytes = 4 * 2 ** 30;

/**
 * Builds modules for one kernel under W=1 and returns the paths of the stripped `.ko` files. Does nothing when nothing
 * changed since the last time. A check returns no paths. Throws `HOST` with the compiler's messages, which name the original source files.
 */
export async function buildModules(
  kernel: KernelHeaders,
  set: ModuleSet,
  options: BuildOptions,
): Promise<string[]> {
  if (set.sources.length === 0) return [];
  const objects = join(options.objects, options.check ? `${set.name}-check` : set.name);
  const stamp = join(objects, '.vesper-built');
  const wanted = fingerprint(kernel, set);
  const last = existsSync(stamp) ? readFileSync(stamp, 'utf8').split('\n') : [];
  if (last[0] === wanted && last.slice(1).every((file) => existsSync(file))) return last.slice(1);

  options.progress?.(`${options.check ? 'checking' : 'building'} ${set.name} for ${kernel.release}`);
  const folders = layOut(set, objects);
  await runKbuild(kernel, set, objects, options);

  const modules: string[] = [];
  if (options.check) {
    writeFileSync(stamp, wanted);
    return modules;
  }
  mkdirSync(options.output, { recursive: true });
  for (const folder of folders) {
    for (const name of readdirSync(folder).filter((file) => file.endsWith('.ko'))) {
      modules.push(await publish(join(folder, name), join(options.output, name), 'strip'));
    }
  }
  if (existsSync(join(objects, 'Module.symvers'))) {
    const target = set.name === 'frontend' ? 'Module.symvers' : `Module.symvers.${set.name}`;
    await publish(join(objects, 'Module.symvers'), join(options.output, target), 'copy');
  }
  writeFileSync(stamp, [wanted, ...modules].join('\n'));
  return modules;
}

/** Copies the sources next to where their objects go, leaving untouched what is the same, and writes the Kbuilds. */
function layOut(set: ModuleSet, objects: string): string[] {
  const known = new Set(set.sources.map((source) => basename(source)));
  mkdirSync(objects, { recursive: true });
  for (const entry of readdirSync(objects, { withFileTypes: true })) {
    if (entry.isDirectory() && !known.has(entry.name)) rmSync(join(objects, entry.name), { recursive: true });
  }
  const includes = (set.includes ?? []).map((folder) => `-I${folder}`).join(' ');
  for (const source of set.sources) {
    const name = basename(source);
    const folder = join(objects, name);
    const files = sourceFiles(source);
    removeStale(folder, files);
    for (const file of files) writeIfChanged(join(folder, file), readFileSync(join(source, file)));
    if (files.includes('Kbuild')) continue;
    if (!files.includes(`${name}.c`)) {
      throw new VesperError(
        'HOST',
        `${source} holds neither ${name}.c nor a Kbuild; a probe's folder is named as its file.`,
      );
    }
    writeIfChanged(join(folder, 'Kbuild'), `obj-m := ${name}.o\nccflags-y := ${includes}\n`);
  }
  const names = [...known].sort();
  writeIfChanged(join(objects, 'Kbuild'), names.map((name) => `obj-m += ${name}/\n`).join(''));
  return names.map((name) => join(objects, name));
}

async function runKbuild(
  kernel: KernelHeaders,
  set: ModuleSet,
  objects: string,
  options: BuildOptions,
): Promise<void> {
  for (const program of ['make', 'strip', kernel.compiler])
    await runCommand(program, ['--version'], { package: 'build-essential' });
  const args = [
    `--as=${memoryLimitBytes}`,
    'make',
    `-j${availableParallelism()}`,
    ...['-C', kernel.headers, `M=${objects}`, `CC=${kernel.compiler}`],
    // BTF of modules wants pahole of the kernel's own version, and nothing of ours needs it.
    'CONFIG_DEBUG_INFO_BTF_MODULES=',
    ...['W=1', ...(options.check ? ['C=2', 'CF=-D__CHECK_ENDIAN__'] : [])],
    ...(set.symvers ? [`KBUILD_EXTRA_SYMBOLS=${set.symvers}`] : []),
    ...(set.allowUndefined ? ['KBUILD_MODPOST_WARN=1'] : []),
    'modules',
  ];
  // A make above us must not hand its flags, goals and job slots to this one.
  const { MAKEFLAGS: _flags, MFLAGS: _mflags, MAKELEVEL: _level, ...env } = process.env;
  const result = await runCommand('prlimit', args, { accept: [0, 1, 2], env, package: 'util-linux' });
  let text = result.output;
  for (const source of set.sources) {
    text = text.replaceAll(join(objects, basename(source)), relative(process.cwd(), source) || '.');
  }
  const complaints = text.split('\n').filter((line) => /\b(warning|error|WARNING|ERROR)\b/.test(line));
  if (result.status !== 0 || (options.check && complaints.length > 0 && !set.allowUndefined)) {
    throw new VesperError(
      'HOST',
      `${set.name} does not build cleanly for ${kernel.release}:\n${text.trim()}`,
      {
        data: { kernel: kernel.release, set: set.name },
      },
    );
  }
  if (!set.allowUndefined) for (const line of complaints) options.progress?.(line);
}

/** Puts a file in its place in one step, so that a reader never sees half of it. */
async function publish(from: string, to: string, how: 'strip' | 'copy'): Promise<string> {
  const temporary = `${to}.${process.pid}`;
  if (how === 'strip')
    await runCommand('strip', ['--strip-debug', '-o', temporary, from], { package: 'binutils' });
  else copyFileSync(from, temporary);
  renameSync(temporary, to);
  return to;
}

function fingerprint(kernel: KernelHeaders, set: ModuleSet): string {
  const hash = createHash('sha256').update(JSON.stringify([2, kernel, set]));
  for (const folder of [...set.sources, ...(set.includes ?? [])]) {
    for (const file of sourceFiles(folder)) {
      hash.update(`\0${folder}/${file}\0`).update(readFileSync(join(folder, file)));
    }
  }
  if (set.symvers) hash.update(readFileSync(set.symvers));
  return hash.digest('hex');
}

/** The files Kbuild may want, relative to the folder. What a build in place left there is not among them. */
function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => /(^|\/)(Kbuild|[^/.][^/]*\.[chS])$/.test(file) && !file.endsWith('.mod.c'))
    .sort();
}

function removeStale(folder: string, files: readonly string[]): void {
  if (!existsSync(folder)) return;
  for (const file of sourceFiles(folder)) {
    if (!files.includes(file)) rmSync(join(folder, file));
  }
}

function writeIfChanged(file: string, content: string | Buffer): void {
  if (existsSync(file) && readFileSync(file).equals(Buffer.from(content))) return;
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
}
