// SPDX-License-Identifier: Apache-2.0

/** Region files of guests that ended while no service was there to release them. */

import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { regionOf, removeRegion } from './region-file.ts';

const regionName = /^vesper-.+-[0-9a-f]{8}-[0-9a-f]{8}$/;

/**
 * Remove region files that no process maps, of this user; root's service removes those that it gave to others, too. Young ones stay: the black box of a guest that died while
 * the service was down is still in there. Returns what was removed.
 */
export async function removeAbandonedRegions(directory: string, olderThanMs: number): Promise<string[]> {
  const names = (await readdir(directory).catch(() => []))
    .map(regionOf)
    .filter((name) => regionName.test(name));
  const paths = [...new Set(names)].map((name) => join(directory, name));
  const old = (await Promise.all(paths.map((path) => isOld(path, olderThanMs)))).flatMap((yes, i) =>
    yes ? [paths[i] as string] : [],
  );
  if (old.length === 0) return [];
  const mapped = await mappedFiles();
  const abandoned = old.filter((path) => !mapped.some((text) => text.includes(path)));
  await Promise.all(abandoned.map(removeRegion));
  return abandoned;
}

async function isOld(path: string, olderThanMs: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  const own = process.getuid?.();
  if (found === undefined || !found.isFile() || (own !== 0 && found.uid !== own)) return false;
  return Date.now() - found.mtimeMs > olderThanMs;
}

/** The memory maps of every process that may be looked at. */
async function mappedFiles(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  return Promise.all(pids.map((pid) => readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '')));
}
