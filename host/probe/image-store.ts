// SPDX-License-Identifier: Apache-2.0

/**
 * Images that were pushed, by sha-256: `<directory>/<sha256>.ko`. A service that was restarted finds a probe loaded in a
 * guest and knows from here what it declares, even when the catalogue has a newer build since. Images are small and read
 * once, so this is synchronous: a session can be restored in one turn.
 */

import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, VesperError } from '../error.ts';
import type { ProbeImage } from './declaration.ts';
import { parseImage } from './image.ts';

const hash = /^[0-9a-f]{64}$/;
const storedFile = /^([0-9a-f]{64})\.ko$|^\.[0-9a-f]{64}\.[0-9a-f]{8}$/;

export class ImageStore {
  readonly #directory: string;
  readonly #known = new Map<string, ProbeImage>();

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Keeps an image; in one step, so that a crash leaves all of it or nothing. Throws HOST. */
  save(image: ProbeImage): void {
    if (this.#known.has(image.sha256)) return;
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o750 });
      this.#write(image);
    } catch (cause) {
      throw new VesperError(
        'HOST',
        `Probe images cannot be kept in ${this.#directory}: ${messageOf(cause)}`,
        {
          cause,
        },
      );
    }
    this.#known.set(image.sha256, image);
  }

  /** Undefined where it was never kept, and where the file is no longer what it was. Throws HOST. */
  load(sha256: string): ProbeImage | undefined {
    const known = this.#known.get(sha256);
    if (known !== undefined || !hash.test(sha256)) return known;
    const image = this.#read(sha256);
    if (image?.sha256 !== sha256) return undefined;
    this.#known.set(sha256, image);
    return image;
  }

  /** Removes all images but these, and what a crash left half written. */
  prune(keep: ReadonlySet<string>): void {
    for (const sha256 of this.#known.keys()) if (!keep.has(sha256)) this.#known.delete(sha256);
    for (const file of this.#files()) {
      const stored = storedFile.exec(file);
      if (stored !== null && !keep.has(stored[1] ?? '')) rmSync(join(this.#directory, file), { force: true });
    }
  }

  #write(image: ProbeImage): void {
    const temporary = join(this.#directory, `.${image.sha256}.${randomBytes(4).toString('hex')}`);
    try {
      writeFileSync(temporary, image.bytes, { mode: 0o640, flag: 'wx' });
      renameSync(temporary, this.#path(image.sha256));
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
  }

  #read(sha256: string): ProbeImage | undefined {
    const path = this.#path(sha256);
    try {
      return parseImage(new Uint8Array(readFileSync(path)), path);
    } catch (cause) {
      if (cause instanceof VesperError || (cause as NodeJS.ErrnoException).code === 'ENOENT')
        return undefined;
      throw new VesperError('HOST', `The kept image ${path} cannot be read: ${messageOf(cause)}`, { cause });
    }
  }

  #files(): readonly string[] {
    try {
      return readdirSync(this.#directory);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  }

  #path(sha256: string): string {
    return join(this.#directory, `${sha256}.ko`);
  }
}
