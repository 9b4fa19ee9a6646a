// SPDX-License-Identifier: Apache-2.0

/** Probe images for guests: from the catalogue by name, from a file, or from the store of what was pushed before. */

import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { Catalogue } from '../probe/catalogue.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import type { GuestKernel } from '../probe/finding.ts';
import { readImage } from '../probe/image.ts';
import { ImageStore } from '../probe/image-store.ts';
import { findSymvers, type KernelSymbols } from '../probe/symvers.ts';
import type { ServiceConfig } from './config.ts';
import type { WantedProbe } from './wanted.ts';

export class ProbeImages {
  readonly catalogue: Catalogue;
  readonly #store: ImageStore;
  /** By sha-256. */
  #catalogued: ReadonlyMap<string, ProbeImage> = new Map();
  readonly #symbols = new Map<string, Promise<KernelSymbols | undefined>>();

  constructor(config: ServiceConfig) {
    this.catalogue = new Catalogue(config.catalogueRoots);
    this.#store = new ImageStore(join(config.stateDirectory, 'images'));
  }

  /** By name, the build that fits the guest's kernel; or by the absolute path of a .ko file. Throws NOT_FOUND, REFUSED, HOST, BAD_IMAGE. */
  async find(reference: string, guest: GuestKernel): Promise<ProbeImage> {
    return isFile(reference) ? readImage(reference) : (await this.catalogue.imageFor(reference, guest)).image;
  }

  /** Throws NOT_FOUND for a name that the catalogue has for no kernel at all. */
  async refuseUnknown(references: readonly string[]): Promise<void> {
    for (const reference of references) if (!isFile(reference)) await this.catalogue.find(reference);
  }

  /**
   * The image of a wanted probe: the file that was attached, or what the catalogue has for the guest's kernel, which may have changed
   * since; else what was pushed before. Throws NOT_FOUND or REFUSED.
   */
  async wanted(probe: WantedProbe, guest: GuestKernel): Promise<ProbeImage> {
    const kept = probe.sha256 === undefined ? undefined : this.bySha256(probe.sha256);
    if (probe.pinned === true && kept !== undefined) return kept;
    try {
      return await this.find(probe.name, guest);
    } catch (thrown) {
      if (kept !== undefined && thrown instanceof VesperError && thrown.code === 'NOT_FOUND') return kept;
      throw thrown;
    }
  }

  /** Symbols of a kernel release, where its headers are on this machine; read once. */
  symbolsOf(kernelRelease: string): Promise<KernelSymbols | undefined> {
    const known = this.#symbols.get(kernelRelease);
    if (known !== undefined) return known;
    const found = findSymvers(kernelRelease);
    this.#symbols.set(kernelRelease, found);
    return found;
  }

  /** Undefined where this image was never pushed by a service with this state directory, and was not in the catalogue last time. */
  bySha256(sha256: string): ProbeImage | undefined {
    return this.#store.load(sha256) ?? this.#catalogued.get(sha256);
  }

  /** Look what the catalogue has: what is loaded in a guest may be from there, pushed by a service with another state directory. */
  async readCatalogue(): Promise<void> {
    const { probes } = await this.catalogue.list();
    this.#catalogued = new Map(
      probes.flatMap(({ images }) => images.map(({ image }) => [image.sha256, image])),
    );
  }

  /** Keep an image for later services: what is loaded in a guest has to stay decodable. */
  keep(image: ProbeImage): void {
    this.#store.save(image);
  }
}

/** A path, not a name of the catalogue. */
export const isFile = (reference: string): boolean => reference.includes('/');
