// SPDX-License-Identifier: Apache-2.0

import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { systemCache } from '../installed.ts';

/** `$VESPER_CACHE`, else for root the package's, else `$XDG_CACHE_HOME/vesper`, else `~/.cache/vesper`. */
export function cacheDirectory(): string {
  const { VESPER_CACHE: own, XDG_CACHE_HOME: xdg } = process.env;
  const system = process.getuid?.() === 0 ? systemCache : undefined;
  const directory = own || system || join(xdg || join(homedir(), '.cache'), 'vesper');
  if (/[\s:]/.test(directory)) {
    throw new VesperError(
      'HOST',
      `The cache folder ${directory} has a blank or a colon in its name, which make cannot handle; set VESPER_CACHE to another one.`,
    );
  }
  return directory;
}

const ownScratch = new Set<string>();

process.on('exit', () => {
  for (const directory of ownScratch) {
    if (!existsSync(join(directory, keeperFile))) rmSync(directory, { recursive: true, force: true });
  }
});

/**
 * A private folder in `parent` named after this process. What processes that are gone left there is removed first; what
 * is left of this one when this process exits is removed then.
 */
export function scratchDirectory(parent: string, prefix: string): string {
  mkdirSync(parent, { recursive: true });
  sweepScratch(parent, prefix);
  const directory = join(parent, `${prefix}${process.pid}-${randomBytes(4).toString('hex')}`);
  mkdirSync(directory, { mode: 0o700 });
  ownScratch.add(directory);
  return directory;
}

/** A file in a scratch folder with the pid of the process it was left to. */
export const keeperFile = 'keeper';

/** Removes the scratch folders of processes that no longer exist. */
export function sweepScratch(parent: string, prefix: string): void {
  for (const name of readdirSync(parent)) {
    const owner = name.startsWith(prefix) ? /^(\d+)-[0-9a-f]{8}$/.exec(name.slice(prefix.length)) : null;
    if (!owner || processExists(Number(owner[1]))) continue;
    const keeper = join(parent, name, keeperFile);
    if (existsSync(keeper) && processExists(Number(readFileSync(keeper, 'utf8')))) continue;
    rmSync(join(parent, name), { recursive: true, force: true });
  }
}

/** Whether a process lives; one that is dead but not yet waited for does not. */
function processExists(pid: number): boolean {
  try {
    // After the name in brackets, which may hold anything, comes the state.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return false; // No such process.
  }
}

/**
 * Moves a finished folder to its place in one step. Where another process was quicker its result stays and ours is
 * dropped: both made the same thing.
 */
export function publishDirectory(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
    rmSync(from, { recursive: true, force: true });
  }
}
