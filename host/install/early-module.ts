// SPDX-License-Identifier: Apache-2.0

/**
 * The frontend's module as it is built on this host: a guest may take minutes for what takes seconds here. It serves until DKMS in
 * the guest has built its own.
 */

import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VesperError } from '../error.ts';
import { buildModules } from '../kernel/build.ts';
import { fetchHeaders } from '../kernel/fetch.ts';
import { modulesDirectory, objectsDirectory, projectRoot } from '../kernel/project.ts';
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

/** Builds it, or takes what was built before. Throws `NOT_FOUND` where nobody has headers of that kernel, `HOST` where it cannot be built. */
export async function earlyModule(kernel: string, progress: (line: string) => void): Promise<Uint8Array> {
  const headers = await fetchHeaders(kernel, { progress });
  if (headers === undefined) {
    throw new VesperError('NOT_FOUND', `Debian's archive has no headers of a kernel ${kernel}`);
  }
  const modules = await buildModules(
    headers,
    { name: 'frontend', sources: [join(projectRoot, 'guest-module')] },
    { objects: objectsDirectory(kernel), output: modulesDirectory(kernel), progress },
  );
  const module = modules.find((path) => basename(path) === 'vesper.ko');
  if (module === undefined) throw new VesperError('HOST', 'the build made no vesper.ko');
  return readFileSync(module);
}

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
