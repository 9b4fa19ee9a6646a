// SPDX-License-Identifier: Apache-2.0

/** Which files make the frontend a DKMS package, wherever they come from and however they get into the guest. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { projectRoot } from '../kernel/project.ts';
import { version } from '../version.ts';

export interface InstalledFile {
  /** Absolute, in the guest. */
  readonly path: string;
  readonly content: Uint8Array;
}

export interface DkmsTree {
  /** What DKMS, and the kernel, call it. */
  readonly name: string;
  readonly version: string;
  /** Where DKMS looks for the sources of this version. */
  readonly directory: string;
  /** All below `directory`, sorted by path. */
  readonly sources: readonly InstalledFile[];
  /** Has the module loaded when the guest boots. */
  readonly boot: InstalledFile;
}

/** DKMS keeps its sources here, a folder a version. */
export const dkmsSourceRoot = '/usr/src';

const name = 'vesper';
/** No products of a build that somebody did in place: `vesper.mod.c` has two dots. */
const belongs = /^(Kbuild|LICENSE|README\.md|dkms\.conf|\w+\.[ch])$/;
const headers = 'include/vesper';

/** Reads the tree of the frontend that comes with this program. */
export function dkmsTree(folder: string = join(projectRoot, 'guest-module')): DkmsTree {
  if (!existsSync(join(folder, 'dkms.conf'))) {
    throw new VesperError(
      'HOST',
      `${folder} does not hold the sources of the frontend: install VESPER anew, or run it from its source tree`,
    );
  }
  const directory = `${dkmsSourceRoot}/${name}-${version}`;
  const paths = [
    ...readdirSync(folder).filter((file) => belongs.test(file)),
    ...readdirSync(join(folder, headers))
      .filter((file) => belongs.test(file))
      .map((file) => `${headers}/${file}`),
  ];
  return {
    name,
    version,
    directory,
    sources: paths
      .sort()
      .map((path) => ({ path: `${directory}/${path}`, content: readFileSync(join(folder, path)) })),
    boot: { path: `/etc/modules-load.d/${name}.conf`, content: Buffer.from(`${name}\n`) },
  };
}
