// SPDX-License-Identifier: Apache-2.0

/**
 * Which probes there are, and which build of one fits a guest. Reads `<root>/<kernel release>/*.ko` and `<root>/*.ko`; of two
 * builds of a probe for the same kernel the first found is taken, in the order of the roots. Nothing is watched: files
 * are looked at when somebody asks, and read again only when they changed.
 */

import { readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { messageOf, VesperError } from '../error.ts';
import { checkImage } from './check.ts';
import { type ProbeImage, probeName } from './declaration.ts';
import type { GuestKernel } from './finding.ts';
import { readImage } from './image.ts';

export interface CatalogueImage {
  /** The kernel it was built for, as it says itself. */
  readonly kernelRelease: string;
  readonly path: string;
  readonly image: ProbeImage;
}

export interface CatalogueProbe {
  readonly name: string;
  /** Newest kernel release first; not empty. */
  readonly images: readonly [CatalogueImage, ...CatalogueImage[]];
}

export interface CatalogueListing {
  /** By name. */
  readonly probes: readonly CatalogueProbe[];
  /** Files that are no usable images, and folders that cannot be read. */
  readonly problems: readonly Problem[];
}

export interface Problem {
  readonly path: string;
  readonly problem: string;
}

export interface FittingImage extends CatalogueImage {
  /** Built for that very kernel release; else its symbol versions have to agree with the guest's. */
  readonly exact: boolean;
}

interface CachedFile {
  readonly stamp: string;
  readonly image: ProbeImage | undefined;
  readonly problem: string;
}

/** The module of the frontend lies among the probes that are built with it. */
const frontendName = 'vesper';

export class Catalogue {
  readonly #roots: readonly string[];
  #cache: ReadonlyMap<string, CachedFile> = new Map();

  constructor(roots: readonly string[]) {
    this.#roots = roots;
  }

  async list(): Promise<CatalogueListing> {
    const builds = new Map<string, CatalogueImage>();
    const problems: Problem[] = [];
    const seen = new Map<string, CachedFile>();
    for (const path of await this.#files(problems)) {
      const file = await this.#read(path);
      if (file === undefined) continue;
      seen.set(path, file);
      if (file.image === undefined) problems.push({ path, problem: file.problem });
      else if (file.image.name !== frontendName) addBuild(builds, { path, image: file.image }, problems);
    }
    this.#cache = seen;
    const probes = [...Map.groupBy(builds.values(), ({ image }) => probeName(image))]
      .map(([name, images]) => ({ name, images: byRelease(images) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    return { probes, problems };
  }

  /** Throws NOT_FOUND with the names there are. */
  async find(name: string): Promise<CatalogueProbe> {
    const { probes } = await this.list();
    const probe = probes.find((candidate) => candidate.name === name);
    if (probe !== undefined) return probe;
    const names = probes.map((candidate) => candidate.name);
    const known =
      names.length > 0
        ? `the catalogue has ${names.join(', ')}`
        : `the catalogue (${this.#roots.join(', ')}) is empty`;
    throw new VesperError('NOT_FOUND', `There is no probe ${name}; ${known}.`, {
      data: { probe: name, names },
    });
  }

  /**
   * The build of a probe for the guest's kernel: the very release, else the nearest of the same series that the
   * compatibility check does not refuse. Throws NOT_FOUND or REFUSED.
   */
  async imageFor(name: string, guest: GuestKernel): Promise<FittingImage> {
    const { images } = await this.find(name);
    const exact = images.find(
      ({ image, kernelRelease }) => kernelRelease === guest.kernelRelease && fits(image, guest),
    );
    if (exact !== undefined) return { ...exact, exact: true };
    const near = images.find(
      ({ image, kernelRelease }) =>
        series(kernelRelease) === series(guest.kernelRelease) && fits(image, guest),
    );
    if (near !== undefined) return { ...near, exact: false };
    const releases = images.map(({ kernelRelease }) => kernelRelease);
    throw new VesperError(
      'REFUSED',
      `Probe ${name} is not built for kernel ${guest.kernelRelease} (${guest.machine}) of guest ${guest.name}, only for ${releases.join(', ')}; build it with: vesper build ${name} --kernel ${guest.kernelRelease}`,
      { data: { probe: name, guest: guest.name, kernelRelease: guest.kernelRelease, releases } },
    );
  }

  async #files(problems: Problem[]): Promise<readonly string[]> {
    const files: string[] = [];
    for (const root of this.#roots) {
      const names = await namesIn(root, problems);
      files.push(...modulesOf(root, names));
      for (const name of names) {
        if (name.endsWith('.ko')) continue;
        const folder = join(root, name);
        files.push(...modulesOf(folder, await namesIn(folder, problems)));
      }
    }
    return files;
  }

  /** Undefined where the file went away meanwhile. */
  async #read(path: string): Promise<CachedFile | undefined> {
    const stamp = await stampOf(path);
    if (stamp === undefined) return undefined;
    const cached = this.#cache.get(path);
    if (cached?.stamp === stamp) return cached;
    try {
      return { stamp, image: await readImage(path), problem: '' };
    } catch (error) {
      if (error instanceof VesperError && error.code === 'NOT_FOUND') return undefined;
      return { stamp, image: undefined, problem: messageOf(error) };
    }
  }
}

const modulesOf = (folder: string, names: readonly string[]): readonly string[] =>
  names.filter((name) => name.endsWith('.ko')).map((name) => join(folder, name));

function addBuild(
  builds: Map<string, CatalogueImage>,
  { path, image }: { path: string; image: ProbeImage },
  problems: Problem[],
): void {
  const [kernelRelease = ''] = image.vermagic.split(' ');
  const key = `${probeName(image)} ${kernelRelease} ${image.architecture}`;
  const taken = builds.get(key);
  if (taken === undefined) builds.set(key, { kernelRelease, path, image });
  else if (dirname(taken.path) === dirname(path)) {
    problems.push({
      path,
      problem: `it declares probe ${probeName(image)}, as ${taken.path} does, which is taken`,
    });
  }
}

const fits = (image: ProbeImage, guest: GuestKernel): boolean =>
  !checkImage(image, guest).some(
    ({ severity, code }) =>
      severity === 'error' &&
      (code === 'ARCHITECTURE' || code === 'VERMAGIC' || code === 'RELEASE' || code === 'SYMBOL_VERSION'),
  );

/** `6.1` of `6.1.0-56-cloud-amd64`. Modules of another series never have the versions that are needed. */
const series = (release: string): string => /^\d+\.\d+/.exec(release)?.[0] ?? release;

function byRelease(images: readonly CatalogueImage[]): [CatalogueImage, ...CatalogueImage[]] {
  const order = new Intl.Collator('en', { numeric: true });
  return images.toSorted((a, b) => order.compare(b.kernelRelease, a.kernelRelease)) as [
    CatalogueImage,
    ...CatalogueImage[],
  ];
}

/** Sorted; none where there is no such folder. */
async function namesIn(
  folder: string,
  problems: { path: string; problem: string }[],
): Promise<readonly string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') problems.push({ path: folder, problem: messageOf(error) });
    return [];
  }
}

async function stampOf(path: string): Promise<string | undefined> {
  try {
    const { mtimeNs, size, ino } = await stat(path, { bigint: true });
    return `${mtimeNs} ${size} ${ino}`;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') return undefined;
    throw error;
  }
}
