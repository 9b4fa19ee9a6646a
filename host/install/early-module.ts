// SPDX-License-Identifier: Apache-2.0

/**
 * The frontend's module as it is built on this host: a guest may take minutes for what takes seconds here. It serves until DKMS in
 * the guest has built its own.
 */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { buildModules } from '../kernel/build.ts';
import { cacheDirectory, scratchDirectory } from '../kernel/cache.ts';
import { fetchHeaders } from '../kernel/fetch.ts';
import { projectRoot } from '../kernel/project.ts';
import type { Action } from './action.ts';
import type { DkmsTree } from './dkms-tree.ts';
import type { GuestFacts } from './guest-facts.ts';

const minutes = 60_000;

/** Where it lies in the guest: modprobe finds it there, and no package has anything in it. */
export const earlyFolder = (kernel: string, { name }: Pick<DkmsTree, 'name'>): string =>
  `/lib/modules/${kernel}/updates/${name}`;

/** Nothing of the frontend is there yet, and the guest would take a module that is not signed. */
export function earlyServes(facts: GuestFacts): boolean {
  return (
    facts.loaded.sources === '' &&
    (facts.installed.version === '' || facts.earlyFolders.length > 0) &&
    facts.sourcePackage === '' &&
    !facts.signaturesForced &&
    ['', 'none'].includes(facts.lockdown)
  );
}

/**
 * The module; what was built before from the same sources for the same kernel is taken as it is. Throws `NOT_FOUND` where Debian has no
 * headers of that kernel, `HOST` where it cannot be built.
 */
export async function earlyModule(
  kernel: string,
  tree: DkmsTree,
  progress: (line: string) => void,
): Promise<Uint8Array> {
  const parent = join(cacheDirectory(), 'frontend');
  const file = join(parent, `${tree.name}-${tree.version}-${kernel}-${fingerprint(tree)}.ko`);
  if (existsSync(file)) progress('built before');
  else await build(kernel, parent, file, progress);
  return readFileSync(file);
}

/** Apart from all other builds: several may run at a time. */
async function build(
  kernel: string,
  parent: string,
  file: string,
  progress: (line: string) => void,
): Promise<void> {
  const headers = await fetchHeaders(kernel, { progress });
  if (headers === undefined)
    throw new VesperError('NOT_FOUND', `Debian's archive has no headers of a kernel ${kernel}`);
  const scratch = scratchDirectory(parent, '.build-');
  try {
    const [module = ''] = await buildModules(
      headers,
      { name: 'frontend', sources: [join(projectRoot, 'guest-module')] },
      { objects: join(scratch, 'objects'), output: join(scratch, 'output'), progress },
    );
    renameSync(module, file);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function fingerprint({ sources }: DkmsTree): string {
  const hash = createHash('sha256');
  for (const { path, content } of sources) hash.update(`${path}\0${content.length}\0`).update(content);
  return hash.digest('hex').slice(0, 16);
}

/** By what was said when it was loaded: that kernel takes another build, perhaps. */
export const fitsNot = (words: string): boolean =>
  /Exec format error|Invalid module format|Unknown symbol|disagrees about version|Key was rejected|Required key not available/.test(
    words,
  );

/** `module` may be left out where it is only said what would be done. */
export function placeEarly({ kernel }: GuestFacts, tree: DkmsTree, module?: Uint8Array): Action {
  const folder = earlyFolder(kernel, tree);
  const file = `${folder}/${tree.name}.ko`;
  return {
    what: `put there what this host built for ${kernel}`,
    script: `mkdir -p ${folder} &&
cat >${file}.new && mv ${file}.new ${file} &&
depmod ${kernel}`,
    ...(module === undefined ? {} : { input: module }),
    timeoutMs: 2 * minutes,
  };
}

export function removeEarly(folders: readonly string[]): Action {
  return {
    what: `remove ${folders.join(', ')}`,
    script: `rm -rf ${folders.join(' ')} && depmod -a`,
    timeoutMs: 2 * minutes,
  };
}
