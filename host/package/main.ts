// SPDX-License-Identifier: Apache-2.0

// `node host/package/main.ts`: what `make package` calls.

import { statSync } from 'node:fs';
import { messageOf, VesperError } from '../error.ts';
import { makePackage, packageNames } from './packages.ts';

try {
  for (const name of packageNames) {
    const deb = await makePackage(name);
    process.stdout.write(`${deb}  ${(statSync(deb).size / 1e6).toFixed(1)} MB\n`);
  }
} catch (thrown) {
  process.stderr.write(`${messageOf(thrown)}\n`);
  process.exitCode = thrown instanceof VesperError ? thrown.exitStatus : 1;
}
