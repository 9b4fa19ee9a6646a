// SPDX-License-Identifier: Apache-2.0

/** The probes of one guest: attach and detach change what is wanted, `reconcile` makes what is loaded follow it. */

import { isDeepStrictEqual } from 'node:util';
import { messageOf, VesperError } from '../error.ts';
import type { LoadedProbe } from '../guest/probe-state.ts';
import type { GuestSession } from '../guest/session.ts';
import { type ProbeImage, probeName } from '../probe/declaration.ts';
import { argumentString, assignParameters } from '../probe/parameters.ts';
import type { MachineDescription } from '../provider/provider.ts';
import { Backoff } from './backoff.ts';
import type { AttachOptions, GuestServices } from './guest-services.ts';
import { isFile } from './images.ts';
import { attachProbe, detachProbe, kernelOf, unloadProbe } from './probe-actions.ts';
import type { ProbeResult } from './results.ts';
import type { WantedProbe } from './wanted.ts';

/** Why a probe is not as it is wanted, and when that is tried again. */
export interface Failure {
  readonly message: string;
  readonly attempts: number;
  /** Undefined: now. */
  readonly nextAt: Date | undefined;
}

export class GuestProbes {
  readonly #guest: Pick<MachineDescription, 'name' | 'uuid'>;
  readonly #services: GuestServices;
  readonly #changed: () => void;
  readonly #failures = new Map<string, Failure>();
  readonly #repeats = new Backoff({ firstMs: 1_000, mostMs: 300_000 });
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
    services.wanted.forgetHeld(this.#guest);
  }

  /** By the probe's name. */
  get failures(): ReadonlyMap<string, Failure> {
    return this.#failures;
  }

  get wanted(): readonly WantedProbe[] {
    return this.#services.wanted.of(this.#guest);
  }

  /** A session began: load what is wanted, now and, where that fails, later again. */
  async enter(session: GuestSession): Promise<void> {
    this.#session = session;
    this.#failures.clear();
    this.#repeats.reset();
    await this.#reconcile(session);
  }

  /** The configuration changed: load and unload at once what follows from that. */
  async reconfigured(): Promise<void> {
    this.#services.wanted.forgetHeld(this.#guest);
    this.#repeats.reset();
    if (this.#session !== undefined) await this.#again(this.#session);
  }

  /** The session is over. */
  leave(): void {
    this.#session = undefined;
    clearTimeout(this.#repeat);
  }

  /**
   * Make probes wanted and load them, one after the other. `references` are names of the catalogue or absolute paths. A name without
   * parameters that the configuration asks for, too, is given back to the configuration. What the check or the guest's kernel
   * refuses does not stay wanted. Throws USAGE or NOT_FOUND before anything was loaded; where the session fails
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
      const given = parameters.get(probeName(image)) ?? {};
      const pinned = isFile(references[index] ?? '');
      const plain = !pinned && Object.keys(given).length === 0;
      const probe: WantedProbe = (plain
        ? this.#services.wanted.configured(this.#guest, image.name)
        : undefined) ?? {
        name: image.name,
        sha256: image.sha256,
        ...(pinned ? { pinned } : {}),
        parameters: { ...given },
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
    const before = wanted.byHand(this.#guest, probe.name);
    const attached = probe.configured === undefined ? probe : undefined;
    const record = () => {
      wanted.setByHand(this.#guest, probe.name, { attached, held: false });
      return wanted.saved();
    };
    // Wanted before the push: a service that dies in the middle of it leaves the probe to its successor.
    const result = await this.#load(session, image, probe, { ...options, accepted: record });
    if (result.ok) await record();
    else wanted.setByHand(this.#guest, probe.name, before);
    await wanted.saved();
    if (!result.ok || probe.configured === undefined) return result;
    return { ...result, message: `${result.message}, as ${probe.configured} asks for` };
  }

  /** Load what is wanted and not loaded; unload what no longer is, or was detached while the guest was away; adopt the rest. */
  async #reconcile(session: GuestSession): Promise<void> {
    const { wanted } = this.#services;
    for (const { name, sha256, args } of session.probes.all()) {
      if (this.wanted.some((probe) => probe.name === name)) continue;
      if (args === undefined && !wanted.byHand(this.#guest, name).held)
        wanted.add(this.#guest, { name, sha256, parameters: {} });
      else await this.#remove(session, name);
    }
    for (const probe of this.wanted) await this.#inTurn(() => this.#bring(session, probe));
    for (const name of this.#failures.keys()) {
      const meant = this.wanted.some((probe) => probe.name === name);
      if (!meant && session.probes.find(name) === undefined) this.#failures.delete(name);
    }
    this.#repeatLater(session);
    this.#changed();
  }

  /** What stood in the way may pass: memory comes free, or a module arrives that was being loaded for a service that died. */
  #repeatLater(session: GuestSession): void {
    clearTimeout(this.#repeat);
    if (this.#failures.size === 0 || this.#session !== session) return;
    const waitMs = this.#repeats.nextMs();
    const nextAt = new Date(Date.now() + waitMs);
    for (const [name, failure] of this.#failures) this.#failures.set(name, { ...failure, nextAt });
    this.#repeat = setTimeout(() => void this.#again(session), waitMs);
  }

  async #again(session: GuestSession): Promise<void> {
    try {
      await session.refreshProbes();
      await this.#reconcile(session);
    } catch (thrown) {
      this.#services.log.warn(`${this.#guest.name}: ${messageOf(thrown)}`);
      this.#repeatLater(session);
    }
  }

  /** Unload what is not wanted; where that fails it is tried again. */
  async #remove(session: GuestSession, name: string): Promise<void> {
    try {
      const result = await this.detach(name, 'reconcile');
      if (!result.ok && session.probes.find(name) !== undefined) this.#fail(name, result.message);
    } catch (thrown) {
      this.#fail(name, messageOf(thrown));
    }
  }

  async #bring(session: GuestSession, probe: WantedProbe): Promise<void> {
    const still = this.wanted.some((one) => isDeepStrictEqual(one, probe));
    if (this.#session !== session || !still) return;
    const { images, audit } = this.#services;
    try {
      const present = session.probes.find(probe.name);
      if (present !== undefined && !outdated(present, probe)) {
        // It may have arrived since it was refused: by the push of a service that died in the middle of it.
        this.#failures.delete(probe.name);
        return;
      }
      const image = await images.wanted(probe, await kernelOf(session, images));
      refuseOtherName(image, probe);
      if (present !== undefined) {
        const errno = await unloadProbe({
          guest: this.#guest,
          session,
          loaded: present,
          by: 'reconcile',
          audit,
        });
        if (errno.error !== '') throw new VesperError('REFUSED', errno.message);
      }
      const how = { by: 'reconcile', selfTest: false, force: false, accepted: () => Promise.resolve() };
      const result = await this.#load(session, image, probe, how);
      if (!result.ok) this.#fail(probe.name, result.message);
    } catch (thrown) {
      this.#fail(probe.name, messageOf(thrown));
    }
  }

  #fail(name: string, message: string): void {
    const attempts = (this.#failures.get(name)?.attempts ?? 0) + 1;
    this.#failures.set(name, { message, attempts, nextAt: undefined });
  }

  async #load(
    session: GuestSession,
    image: ProbeImage,
    wanted: WantedProbe,
    options: AttachOptions & { readonly accepted: () => Promise<void> },
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

/** The configuration asks for other parameters than it was loaded with. What was attached keeps those it was attached with. */
function outdated({ image, args }: LoadedProbe, { configured, parameters }: WantedProbe): boolean {
  if (configured === undefined || image === undefined || args === undefined) return false;
  return argumentString(image, parameters) !== args;
}

/** In a guest a probe goes by the name of its module: under another one it would be loaded and taken for unwanted in turn. */
function refuseOtherName({ name }: ProbeImage, { name: asked, configured }: WantedProbe): void {
  if (configured === undefined || name === asked) return;
  throw new VesperError(
    'REFUSED',
    `${configured} asks for ${asked}, whose module is called ${name}: a configured probe has to be called as its module is`,
  );
}
