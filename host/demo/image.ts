// SPDX-License-Identifier: Apache-2.0

import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { VesperError } from '../error.ts';
import { systemCache } from '../installed.ts';
import { cacheDirectory } from '../kernel/cache.ts';
import { runCommand } from '../kernel/command.ts';
import type { Kernel } from '../kernel/fetch.ts';
import { moduleRoots, projectRoot } from '../kernel/project.ts';
import { type CpioEntry, cpioArchive } from './cpio.ts';

export interface ImageOptions {
  /**
   * The frontend's `.ko`: `build/<release>/vesper.ko` unless given, none with `false`. It is installed as DKMS would,
   * in `/lib/modules/<release>/updates`.
   */
  readonly frontend?: string | false;
  /** Modules of the kernel's package to install, with all they depend on. */
  readonly modules?: readonly string[];
  /** Further files: path in the guest → content, or the path of a file of the host. */
  readonly files?: Readonly<Record<string, Uint8Array | string>>;
}

/** What a guest with an ordinary virtio-serial controller has loaded. */
export const defaultGuestModules = ['virtio_pci', 'virtio_console'] as const;

const guestSources = join(projectRoot, 'host/demo/guest');

/**
 * An initramfs with busybox, the actor, kernel modules and the frontend; built once for the same content. Returns its
 * path. Throws `HOST` when something that goes into it is missing.
 */
export async function guestImage(kernel: Kernel, options: ImageOptions = {}): Promise<string> {
  const busybox = '/bin/busybox';
  if (!existsSync(busybox)) {
    throw new VesperError(
      'HOST',
      'busybox is not installed; install it with: apt-get install busybox-static.',
    );
  }
  const frontend = options.frontend ?? builtFrontend(kernel);
  if (frontend !== false && !existsSync(frontend)) throw new VesperError('HOST', `There is no ${frontend}.`);
  const needed = frontend === false ? [] : await dependenciesOf(frontend);
  const modules = moduleClosure(kernel, [...(options.modules ?? defaultGuestModules), ...needed]);
  const actor = await buildActor();
  const contents = new Map<string, Uint8Array>([
    ['init', readFileSync(join(guestSources, 'init'))],
    ['bin/busybox', readFileSync(busybox)],
    ['bin/actor', readFileSync(actor)],
  ]);
  if (frontend !== false)
    contents.set(`lib/modules/${kernel.release}/updates/vesper.ko`, readFileSync(frontend));
  for (const [path, file] of Object.entries(options.files ?? {})) {
    contents.set(path, typeof file === 'string' ? readFileSync(file) : file);
  }

  const hash = createHash('sha256').update(
    JSON.stringify([1, kernel.release, kernel.packageVersion, modules]),
  );
  for (const [path, content] of contents) hash.update(`\0${path}\0${content.length}\0`).update(content);
  const image = join(cacheDirectory(), 'images', `${hash.digest('hex').slice(0, 24)}.cpio`);
  if (!existsSync(image)) {
    const entries: CpioEntry[] = [...contents].map(([path, content]) => ({ path, content, mode: 0o755 }));
    entries.push({ path: 'bin/sh', link: 'busybox' }, ...(await moduleTree(kernel, modules, contents)));
    for (const path of ['proc', 'sys', 'dev', 'tmp', 'etc']) entries.push({ path, directory: true });
    publishFile(image, cpioArchive(entries));
    removeUnused(dirname(image));
  }
  const now = new Date();
  utimesSync(image, now, now);
  return image;
}

/** Throws `HOST` with the command that builds it. */
function builtFrontend({ key, release }: Kernel): string {
  const found = moduleRoots()
    .map((root) => join(root, release, 'vesper.ko'))
    .find(existsSync);
  if (found !== undefined) return found;
  // A probe is not built without the frontend.
  const command =
    systemCache === undefined
      ? 'make'
      : `vesper build signal --kernel ${key} && vesper build oom --kernel ${key}`;
  throw new VesperError('HOST', `The frontend is not built yet for ${release}; build it with: ${command}.`);
}

/** The names in a module's `depends=`. */
async function dependenciesOf(module: string): Promise<string[]> {
  const { stdout } = await runCommand('modinfo', ['-F', 'depends', module], { package: 'kmod' });
  return stdout.trim().split(',').filter(Boolean);
}

/** Paths, relative to the kernel's module folder, of the modules and all they depend on. Built-in ones have none. */
function moduleClosure(kernel: Kernel, names: readonly string[]): string[] {
  const plain = (path: string) =>
    basename(path)
      .replace(/\.ko(\.xz|\.zst)?$/, '')
      .replaceAll('-', '_');
  const byName = new Map<string, readonly string[]>();
  for (const line of readFileSync(join(kernel.modules, 'modules.dep'), 'utf8').split('\n')) {
    const [path, rest = ''] = line.split(':');
    if (path) byName.set(plain(path), [path, ...rest.split(' ').filter(Boolean)]);
  }
  const builtIn = new Set(
    readFileSync(join(kernel.modules, 'modules.builtin'), 'utf8').split('\n').map(plain),
  );
  const closure = new Set<string>();
  for (const name of names.map(plain)) {
    const paths = byName.get(name);
    if (paths) for (const path of paths) closure.add(path);
    else if (!builtIn.has(name))
      throw new VesperError('HOST', `The kernel ${kernel.release} has no module ${name}.`);
  }
  return [...closure].sort();
}

/** The modules, uncompressed, and the index files modprobe reads. */
async function moduleTree(
  kernel: Kernel,
  modules: readonly string[],
  contents: ReadonlyMap<string, Uint8Array>,
): Promise<CpioEntry[]> {
  const scratch = mkdtempSync(join(tmpdir(), 'vesper-image-'));
  try {
    const base = `lib/modules/${kernel.release}`;
    const entries: CpioEntry[] = [];
    const put = (path: string, content: Uint8Array) => {
      mkdirSync(dirname(join(scratch, path)), { recursive: true });
      writeFileSync(join(scratch, path), content);
    };
    for (const module of modules) {
      const path = `${base}/${module.replace(/\.(xz|zst)$/, '')}`;
      const source = join(kernel.modules, module);
      put(`${base}/${module}`, readFileSync(source));
      if (module.endsWith('.xz'))
        await runCommand('xz', ['-d', join(scratch, base, module)], { package: 'xz-utils' });
      if (module.endsWith('.zst'))
        await runCommand('zstd', ['-q', '-d', '--rm', join(scratch, base, module)], { package: 'zstd' });
      entries.push({ path, content: readFileSync(join(scratch, path)) });
    }
    for (const [path, content] of contents) if (path.startsWith(`${base}/`)) put(path, content);
    const index = ['modules.builtin', 'modules.order'];
    for (const name of index) put(`${base}/${name}`, readFileSync(join(kernel.modules, name)));
    await runCommand('depmod', ['-b', scratch, kernel.release], { package: 'kmod' });
    for (const name of [
      'modules.dep',
      'modules.alias',
      'modules.symbols',
      'modules.builtin',
      'modules.softdep',
    ]) {
      const file = join(scratch, base, name);
      if (existsSync(file)) entries.push({ path: `${base}/${name}`, content: readFileSync(file) });
    }
    return entries;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Compiles the guest's actor, once for the same sources. */
async function buildActor(): Promise<string> {
  const sources = readdirSync(guestSources)
    .filter((name) => /\.[ch]$/.test(name))
    .sort()
    .map((name) => join(guestSources, name));
  const hash = createHash('sha256');
  for (const source of sources) hash.update(`${basename(source)}\0`).update(readFileSync(source));
  const actor = join(cacheDirectory(), 'images', `actor-${hash.digest('hex').slice(0, 24)}`);
  if (!existsSync(actor)) {
    const temporary = `${actor}.${process.pid}`;
    mkdirSync(dirname(actor), { recursive: true });
    const flags = ['-static', '-s', '-O2', '-Wall', '-Wextra', '-Werror'];
    const units = sources.filter((source) => source.endsWith('.c'));
    await runCommand('gcc', [...flags, '-o', temporary, ...units], { package: 'build-essential' });
    renameSync(temporary, actor);
  }
  return actor;
}

/** Removes images no guest was booted from for a week: every change of the frontend makes a new one. */
function removeUnused(folder: string): void {
  const weekAgo = Date.now() - 7 * 24 * 3600 * 1000;
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.cpio'))) {
    const stat = statSync(join(folder, name), { throwIfNoEntry: false });
    if (stat && stat.mtimeMs < weekAgo) rmSync(join(folder, name), { force: true });
  }
}

function publishFile(path: string, content: Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.${process.pid}`, content);
  renameSync(`${path}.${process.pid}`, path);
}
