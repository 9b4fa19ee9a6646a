// SPDX-License-Identifier: Apache-2.0

/**
 * Whether this program came as a package: its tree is then not to be written, and nobody can run `make` in it. The package.json of
 * a package says so, and a source tree's does not.
 */

import { readFileSync } from 'node:fs';

interface Manifest {
  readonly vesper?: { readonly cache: string };
}

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as Manifest;

/** Where root keeps what is fetched and built. Undefined: this is a source tree. */
export const systemCache: string | undefined = manifest.vesper?.cache;

/** The command that starts the service. */
export const startService: string = systemCache === undefined ? 'vesper serve' : 'systemctl start vesper';

/** The command that mends a program of which parts are missing. */
export const mendProgram: string =
  systemCache === undefined ? 'make build' : 'apt-get install --reinstall vesper';
