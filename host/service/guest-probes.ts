// SPDX-License-Identifier: Apache-2.0

/** The probes of one guest: attach and detach change what is wanted, `reconcile` makes what is loaded follow it. */

import { messageOf } from '../error.ts';
import type { GuestSession } from '../guest/session.ts';
import { type ProbeImage, probeName } from '../probe/declaration.ts';
import { assignParameters } from '../probe/parameters.ts';
import type { MachineDescription } from '../provider/provider.ts';
import { Backoff } from './backoff.ts';
import type { AttachOptions, GuestServices } from './guest-services.ts';
import { isFile } from './images.ts';
import { attachProbe, detachProbe, kernelOf } from './probe-actions.ts';
import type { ProbeResult } from './results.ts';
import type { WantedProbe } from './wanted.ts';

export class GuestProbes {
  readonly #guest: Pick<MachineDescription, 'name' | 'uuid'>;
  readonly #services: GuestServices;
  readonly #changed: () => void;
  /** Why a wanted probe is not loaded, by name. */
  readonly #failures = new Map<string, string>();
  readonly #repeats = new Backoff({ firstMs: 1_000, mostMs: 60_000 });
  #repeat: NodeJS.Timeout | undefined;
  /** Of the guest now. */
  #session: GuestSession | undefined;
  /** One probe is attached or detached after the other: what is answered has to hold. */
  #turn: Promise<unknown> = Promise.resolve();

  /** `changed` is called when something was loaded, unloaded or failed. */
  constructor({ name, uuid }: MachineDescription, services: GuestServices, changed: () => void) {
    this.#guest = { name, uuid };
    this.#services = services;
    this.#changed = changed;
  }

  get failures(): ReadonlyMap<string, string> {
    return this.#failures;
  }

  get wanted(): readonly WantedProbe[] {
    return this.#services.wanted.of(this.#guest.uuid);
  }

  /** A session began: load what is wanted, now and, where that fails, later again. */
  async enter(session: GuestSession): Promise<void> {
    this.#session = session;
    this.#failures.clear();
    this.#repeats.reset();
    await this.#reconcile(session);
  }

  /** The session is over. */
  leave(): void {
    this.#session = undefined;
    clearTimeout(this.#repeat);
  }

  /**
   * Make probes wanted and load them, one after the other. `references` are names of the catalogue or absolute paths. What the check
   * or the guest's kernel refuses does not stay wanted. Throws USAGE or NOT_FOUND before anything was loaded; where the session fails
   * in the middle, the probe stays wanted and is loaded when the guest is back.
   */
  async attach(
    session: GuestSession,
    references: readonly string[],
    assignments: readonly string[],
    options: AttachOptions,
  ): Promise<readonly ProbeResult[]> {
    const { images } = this.#services;
    const kernel = await kernelOf(session, images);
    const found = await Promise.all(references.map((reference) => images.find(reference, kernel)));
    const parameters = assignParameters(found, assignments);
    const results: ProbeResult[] = [];
    for (const [index, image] of found.entries()) {
      const probe: WantedProbe = {
        name: image.name,
        sha256: image.sha256,
        ...(isFile(references[index] ?? '') ? { pinned: true } : {}),
        parameters: { ...parameters.get(probeName(image)) },
      };
      results.push(await this.#inTurn(() => this.#attach(session, image, probe, options)));
    }
    this.#changed();
    return results;
  }

  /** Make a probe unwanted and unload it where it is loaded. */
  async detach(name: string, by: string): Promise<ProbeResult> {
    const services = this.#services;
    const result = await this.#inTurn(() =>
      detachProbe({ guest: this.#guest, session: this.#session, name, by, services }),
    );
    this.#failures.delete(name);
    this.#changed();
    return result;
  }

  async #attach(
    session: GuestSession,
    image: ProbeImage,
    probe: WantedProbe,
    options: AttachOptions,
  ): Promise<ProbeResult> {
    const { wanted } = this.#services;
    const { uuid } = this.#guest;
    const before = this.wanted.find(({ name }) => name === probe.name);
    // Wanted before the push: a service that dies in the middle of it leaves the probe to its successor.
    const accepted = () => wanted.add(uuid, probe);
    const result = await this.#load(session, image, probe, { ...options, accepted });
    if (result.ok) wanted.add(uuid, probe);
    else if (before === undefined) wanted.remove(uuid, probe.name);
    else wanted.add(uuid, before);
    return result;
  }

  /** Load what is wanted and not loaded; unload what was detached while the guest was away; adopt the rest. */
  async #reconcile(session: GuestSession): Promise<void> {
    for (const loaded of session.probes.all()) {
      const { name, sha256, args } = loaded;
      if (this.wanted.some((probe) => probe.name === name)) continue;
      if (args !== undefined) await this.detach(name, 'reconcile');
      else this.#services.wanted.add(this.#guest.uuid, { name, sha256, parameters: {} });
    }
    for (const probe of this.wanted) await this.#inTurn(() => this.#bring(session, probe));
    this.#changed();
    // What stood in the way may pass: memory comes free, or a module arrives that was being loaded for a service that died.
    if (this.#failures.size === 0 || this.#session !== session) return;
    clearTimeout(this.#repeat);
    this.#repeat = setTimeout(() => void this.#again(session), this.#repeats.nextMs());
  }

  async #again(session: GuestSession): Promise<void> {
    try {
      await session.refreshProbes();
      await this.#reconcile(session);
    } catch (thrown) {
      this.#services.log.warn(`${this.#guest.name}: ${messageOf(thrown)}`);
    }
  }

  async #bring(session: GuestSession, probe: WantedProbe): Promise<void> {
    if (this.#session !== session || !this.wanted.includes(probe)) return;
    if (session.probes.find(probe.name) !== undefined) {
      // It may have arrived since it was refused: by the push of a service that died in the middle of it.
      this.#failures.delete(probe.name);
      return;
    }
    const { images } = this.#services;
    try {
      const image = await images.wanted(probe, await kernelOf(session, images));
      const how = { by: 'reconcile', selfTest: false, force: false, accepted: () => undefined };
      const result = await this.#load(session, image, probe, how);
      if (!result.ok) this.#failures.set(probe.name, result.message);
    } catch (thrown) {
      this.#failures.set(probe.name, messageOf(thrown));
    }
  }

  async #load(
    session: GuestSession,
    image: ProbeImage,
    wanted: WantedProbe,
    options: AttachOptions & { readonly accepted: () => void },
  ): Promise<ProbeResult> {
    const request = { guest: this.#guest, session, image, wanted, ...options, services: this.#services };
    const result = await attachProbe(request);
    if (result.ok) this.#failures.delete(wanted.name);
    return result;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }
}
