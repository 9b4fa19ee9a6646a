// SPDX-License-Identifier: Apache-2.0

/**
 * Which probes are wanted on which guest: what the configuration or the guest's own description asks for, what `attach` recorded, and what `detach` took off again
 * although the configuration asks for it. The last two are kept in one small JSON file, written whole and renamed into place,
 * so that after a crash at any moment there is the old or the new one. Changes hold at once; who has to know that they are on disk
 * waits for `saved`. What many guests change at the same time is written once, and nobody waits for the disk who need not.
 */

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { messageOf, VesperError } from '../error.ts';
import type { AskedProbe } from '../provider/provider.ts';
import type { ProbeRule } from './config-file.ts';
import { matchesGuest } from './guest-pattern.ts';

const wantedProbe = z.object({
  name: z.string(),
  /** Of the image that was pushed. */
  sha256: z.string().optional(),
  /** A file was attached: that very image is wanted, whatever the catalogue has of this name. */
  pinned: z.boolean().optional(),
  parameters: z.record(z.string(), z.string()),
});
const wantedFile = z.object({
  version: z.literal(1),
  guests: z.record(z.string(), z.array(wantedProbe)),
  /** Names of probes that were detached although the configuration asks for them. */
  held: z.record(z.string(), z.array(z.string())).default({}),
});

export interface WantedProbe extends Readonly<z.infer<typeof wantedProbe>> {
  /** `FILE:LINE` of the configuration that asks for it; undefined: it was attached. */
  readonly configured?: string;
}

/** What was done by hand about one probe of one guest. */
export interface HandEntry {
  readonly attached: WantedProbe | undefined;
  /** Stays detached although the configuration asks for it. */
  readonly held: boolean;
}

type Guest = { readonly name: string; readonly uuid: string };

export class WantedState {
  readonly #path: string;
  /** Both by UUID. */
  readonly #attached: Map<string, readonly WantedProbe[]>;
  readonly #held: Map<string, readonly string[]>;
  #rules: readonly ProbeRule[] = [];
  /** What guests ask for in their own descriptions, by UUID. */
  readonly #asked = new Map<string, readonly AskedProbe[]>();
  #changes = 0;
  /** Of the changes, those that are in the file. */
  #inFile = 0;
  #writing: Promise<void> | undefined;

  private constructor(path: string, file: z.infer<typeof wantedFile>) {
    this.#path = path;
    this.#attached = new Map(Object.entries(file.guests));
    this.#held = new Map(Object.entries(file.held));
  }

  /** Throws HOST where the file is there but cannot be used: wanted state is never dropped silently. */
  static load(path: string): WantedState {
    let raw: string;
    try {
      raw = readFileSync(path, 'utf8');
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === 'ENOENT')
        return new WantedState(path, { version: 1, guests: {}, held: {} });
      throw new VesperError('HOST', `cannot read ${path}: ${messageOf(thrown)}`, { cause: thrown });
    }
    try {
      return new WantedState(path, wantedFile.parse(JSON.parse(raw)));
    } catch (thrown) {
      throw new VesperError(
        'HOST',
        `${path} is not what this service writes (${messageOf(thrown)}): move it away and attach the probes anew`,
        { cause: thrown },
      );
    }
  }

  /** What the configuration asks for from now on. */
  configure(rules: readonly ProbeRule[]): void {
    this.#rules = rules;
  }

  /** What a guest's own description asks for from now on. */
  ask({ uuid }: Pick<Guest, 'uuid'>, probes: readonly AskedProbe[]): void {
    setOrDelete(this.#asked, uuid, probes);
  }

  /** Wanted probes of a guest. What was attached counts more than what is configured of the same name. */
  of(guest: Guest): readonly WantedProbe[] {
    const attached = this.#attached.get(guest.uuid) ?? [];
    const held = this.#held.get(guest.uuid) ?? [];
    const configured = [...this.#configuredOn(guest).values()]
      .filter(({ name }) => !held.includes(name) && !attached.some((probe) => probe.name === name))
      .map(({ name, parameters, where }) => ({ name, parameters, configured: where }));
    return [...attached, ...configured];
  }

  /** What the configuration asks for, whatever was done by hand. */
  configured(guest: Guest, name: string): WantedProbe | undefined {
    const probe = this.#configuredOn(guest).get(name);
    return probe && { name, parameters: probe.parameters, configured: probe.where };
  }

  byHand({ uuid }: Guest, name: string): HandEntry {
    return {
      attached: this.#attached.get(uuid)?.find((probe) => probe.name === name),
      held: this.#held.get(uuid)?.includes(name) === true,
    };
  }

  setByHand(guest: Guest, name: string, entry: HandEntry): void {
    if (isDeepStrictEqual(this.byHand(guest, name), entry)) return;
    const { uuid } = guest;
    const others = (this.#attached.get(uuid) ?? []).filter((probe) => probe.name !== name);
    setOrDelete(this.#attached, uuid, entry.attached === undefined ? others : [...others, entry.attached]);
    const otherHeld = (this.#held.get(uuid) ?? []).filter((one) => one !== name);
    setOrDelete(this.#held, uuid, entry.held ? [...otherHeld, name] : otherHeld);
    this.#save();
  }

  add(guest: Guest, probe: WantedProbe): void {
    this.setByHand(guest, probe.name, { attached: probe, held: false });
  }

  /** Returns false where the probe was not wanted. What the configuration asks for is held back from now on. */
  remove(guest: Guest, name: string): boolean {
    const wasWanted = this.of(guest).some((probe) => probe.name === name);
    this.setByHand(guest, name, {
      attached: undefined,
      held: this.configured(guest, name) !== undefined,
    });
    return wasWanted;
  }

  /** What the configuration no longer asks for is not held back any more, should it be asked for again. */
  forgetHeld(guest: Guest): void {
    for (const name of this.#held.get(guest.uuid) ?? [])
      if (this.configured(guest, name) === undefined)
        this.setByHand(guest, name, { ...this.byHand(guest, name), held: false });
  }

  /** By their names; of the guest's own description and the configuration the latter counts. */
  #configuredOn(guest: Guest): ReadonlyMap<string, AskedProbe> {
    const matching = this.#rules.filter((rule) => matchesGuest(rule.guest, guest));
    const probes = [...(this.#asked.get(guest.uuid) ?? []), ...matching.flatMap((rule) => rule.probes)];
    return new Map(probes.map((probe) => [probe.name, probe] as const));
  }

  /** Resolves when all that was changed before is on disk. Throws HOST with what to do; the next change tries again. */
  async saved(): Promise<void> {
    const due = this.#changes;
    while (this.#inFile < due) {
      this.#writing ??= this.#write().finally(() => {
        this.#writing = undefined;
      });
      await this.#writing;
    }
  }

  #save(): void {
    this.#changes += 1;
    this.saved().catch(() => undefined); // who waits for it is told
  }

  async #write(): Promise<void> {
    const changes = this.#changes;
    const file = {
      version: 1,
      guests: Object.fromEntries(this.#attached),
      held: Object.fromEntries(this.#held),
    };
    await replaceOnDisk(this.#path, `${JSON.stringify(file, null, 2)}\n`);
    this.#inFile = changes;
  }
}

function setOrDelete<T>(map: Map<string, readonly T[]>, key: string, values: readonly T[]): void {
  if (values.length === 0) map.delete(key);
  else map.set(key, values);
}

/** Replace a file by rename, on disk when it resolves; throws HOST with what to do (a full disk, a missing permission). */
async function replaceOnDisk(path: string, content: string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o750 });
    await writeFile(`${path}.new`, content, { mode: 0o640, flush: true });
    await rename(`${path}.new`, path);
  } catch (thrown) {
    throw cannotWrite(path, thrown);
  }
}

/** The same at once, for what is worth nothing after a crash of the whole host: it need not be on disk. */
export function writeAtomically(path: string, content: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
    writeFileSync(`${path}.new`, content, { mode: 0o640 });
    renameSync(`${path}.new`, path);
  } catch (thrown) {
    throw cannotWrite(path, thrown);
  }
}

const cannotWrite = (path: string, thrown: unknown): VesperError =>
  new VesperError(
    'HOST',
    `cannot write ${path}: ${messageOf(thrown)}: make room or mend the permissions, then repeat`,
    { cause: thrown },
  );
