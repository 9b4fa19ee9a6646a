// SPDX-License-Identifier: Apache-2.0

import { cpSync, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateApt } from '../../host/kernel/apt.ts';
import { cacheDirectory, publishDirectory, scratchDirectory } from '../../host/kernel/cache.ts';

/**
 * Packages of Debian 12, unpacked into a folder of the cache and not installed: nothing of them runs on this machine by itself, and no
 * user is added. Downloaded once. Everything lies below `usr` and `etc`, as on a system with merged folders. `name` has a number
 * at its end that is raised when the packages change, so that older caches are fetched again.
 */
export async function debianTree(folder: string, name: string, packages: readonly string[]): Promise<string> {
  const parent = join(cacheDirectory(), folder);
  const target = join(parent, name);
  if (existsSync(target)) return target;
  const scratch = scratchDirectory(parent, '.fetch-');
  try {
    const apt = new PrivateApt(join(scratch, 'apt'), 'bookworm');
    await apt.update();
    const tree = join(scratch, 'tree');
    await apt.unpack(packages, tree);
    for (const merged of ['bin', 'sbin', 'lib']) {
      const from = join(tree, merged);
      if (!existsSync(from)) continue;
      cpSync(from, join(tree, 'usr', merged), { recursive: true, verbatimSymlinks: true });
      rmSync(from, { recursive: true });
    }
    for (const unused of ['var', 'run']) rmSync(join(tree, unused), { recursive: true, force: true });
    publishDirectory(tree, target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return target;
}
