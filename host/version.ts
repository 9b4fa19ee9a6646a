// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';

/** Version of the package, from its package.json, which lies beside host/ and beside dist/. */
export const version: string = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
