// SPDX-License-Identifier: Apache-2.0

import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { systemCache } from '../installed.ts';
import { type BuildOptions, buildModules, type ModuleSet } from './build.ts';
import { cacheDirectory } from './cache.ts';
import { fetchKernel, type Kernel } from './fetch.ts';
import type { KernelKey } from './release.ts';

/** The top of the source tree, from host/kernel as well as from dist/kernel. */
export const projectRoot = resolve(import.meta.dirname, '../..');

const treeModules = join(projectRoot, 'build');

/** Where modules are built to: beside the sources, or, where these came as a package, in the cache. */
const modulesRoot = (): string =>
  systemCache === undefined ? treeModules : join(cacheDirectory(), 'modules');

/** Where modules built for a kernel release are put: `vesper.ko`, one `.ko` a probe, `Module.symvers`, `fixtures/`. */
export function modulesDirectory(release: string): string {
  return join(modulesRoot(), release);
}

/** Where their objects lie. */
export function objectsDirectory(release: string): string {
  return join(systemCache === undefined ? treeModules : cacheDirectory(), 'obj', release);
}

/** Folders with modules, one a kernel release: those that came with the program, then those that were built by it. */
export function moduleRoots(): readonly string[] {
  return [...new Set([treeModules, modulesRoot()])];
}

/** Where the modules that only tests use lie. */
export function fixturesDirectory(release: string): string {
  return join(modulesDirectory(release), 'fixtures');
}

export type ProjectBuildOptions = Pick<BuildOptions, 'check' | 'progress'>;

/**
 * Fetches the kernel and builds the frontend, every probe and the tests' probes for it; with `check`, runs the checks
 * on the frontend and the probes as well. Quick when nothing changed.
 */
export async function buildProjectModules(
  key: KernelKey,
  options: ProjectBuildOptions = {},
): Promise<Kernel> {
  const kernel = await fetchKernel(key, options);
  const objects = objectsDirectory(kernel.release);
  const output = modulesDirectory(kernel.release);
  const guestModule = join(projectRoot, 'guest-module');
  const shared = { includes: [join(guestModule, 'include')], symvers: join(output, 'Module.symvers') };
  const sets: readonly ModuleSet[] = [
    { name: 'frontend', sources: [guestModule] },
    { name: 'probes', sources: probeFolders(join(projectRoot, 'probes')), ...shared },
    {
      name: 'fixtures',
      sources: probeFolders(join(projectRoot, 'test/fixtures/probes')),
      allowUndefined: true,
      ...shared,
    },
  ];
  for (const set of sets) {
    const target = set.name === 'fixtures' ? fixturesDirectory(kernel.release) : output;
    await buildModules(kernel, set, { ...options, check: false, objects, output: target });
    if (options.check && !set.allowUndefined)
      await buildModules(kernel, set, { ...options, objects, output: target });
  }
  return kernel;
}

function probeFolders(parent: string): string[] {
  if (!existsSync(parent)) return [];
  return readdirSync(parent, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'))
    .map((entry) => join(parent, entry.name))
    .sort();
}
