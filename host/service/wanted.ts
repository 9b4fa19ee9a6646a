// SPDX-License-Identifier: Apache-2.0

/**
 * Which probes are wanted on which guest, kept in one small JSON file: what attach and detach recorded. Written whole and
 * renamed into place, so that a service killed at any moment finds the old or the new one.
 */

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { messageOf, VesperError } from '../error.ts';

const wantedProbe = z.object({
  name: z.string(),
  /** Of the image that was pushed. */
  sha256: z.string().optional(),
  /** A file was attached: that very image is wanted, whatever the catalogue has of this name. */
  pinned: z.boolean().optional(),
  parameters: z.record(z.string(), z.string()),
});
const wantedFile = z.object({ version: z.literal(1), guests: z.record(z.string(), z.array(wantedProbe)) });

export type WantedProbe = Readonly<z.infer<typeof wantedProbe>>;

export class WantedState {
  readonly #path: string;
  readonly #guests: Map<string, WantedProbe[]>;

  private constructor(path: string, guests: Map<string, WantedProbe[]>) {
    this.#path = path;
    this.#guests = guests;
  }

  /** Throws HOST where the file is there but cannot be used: wanted state is never dropped silently. */
  static load(path: string): WantedState {
    let raw: string;
    try {
      raw = readFileSync(path, 'utf8');
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return new WantedState(path, new Map());
      throw new VesperError('HOST', `cannot read ${path}: ${messageOf(thrown)}`, { cause: thrown });
    }
    try {
      return new WantedState(path, new Map(Object.entries(wantedFile.parse(JSON.parse(raw)).guests)));
    } catch (thrown) {
      throw new VesperError(
        'HOST',
        `${path} is not what this service writes (${messageOf(thrown)}): move it away and attach the probes anew`,
        { cause: thrown },
      );
    }
  }

  /** Wanted probes of a guest, by its UUID. */
  of(uuid: string): readonly WantedProbe[] {
    return this.#guests.get(uuid) ?? [];
  }

  add(uuid: string, probe: WantedProbe): void {
    const before = this.of(uuid).find(({ name }) => name === probe.name);
    if (isDeepStrictEqual(before, probe)) return;
    this.#guests.set(uuid, [...this.of(uuid).filter(({ name }) => name !== probe.name), probe]);
    this.#save();
  }

  /** Returns false where the probe was not wanted. */
  remove(uuid: string, name: string): boolean {
    const before = this.of(uuid);
    const after = before.filter((probe) => probe.name !== name);
    if (after.length === before.length) return false;
    if (after.length === 0) this.#guests.delete(uuid);
    else this.#guests.set(uuid, after);
    this.#save();
    return true;
  }

  #save(): void {
    writeAtomically(
      this.#path,
      `${JSON.stringify({ version: 1, guests: Object.fromEntries(this.#guests) }, null, 2)}\n`,
    );
  }
}

/** Replace a file by rename; throws HOST with what to do (a full disk, a missing permission). */
export function writeAtomically(path: string, content: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
    const temporary = `${path}.new`;
    writeFileSync(temporary, content, { mode: 0o640, flush: true });
    renameSync(temporary, path);
  } catch (thrown) {
    throw new VesperError(
      'HOST',
      `cannot write ${path}: ${messageOf(thrown)}: make room or mend the permissions, then repeat`,
      {
        cause: thrown,
      },
    );
  }
}
