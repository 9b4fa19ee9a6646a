// SPDX-License-Identifier: Apache-2.0

// `node host/kernel/main.ts fetch|build|check [SERIES...]`: what the Makefile calls.

import { messageOf, VesperError } from '../error.ts';
import { fetchKernel } from './fetch.ts';
import { buildProjectModules } from './project.ts';
import { type KernelKey, kernelKeys } from './release.ts';

async function main([command, ...series]: readonly string[]): Promise<void> {
  const keys = series.length > 0 ? series.map(kernelKey) : kernelKeys;
  const progress = (line: string) => process.stderr.write(`${line}\n`);
  for (const key of keys) {
    switch (command) {
      case 'fetch':
        await fetchKernel(key, { progress });
        break;
      case 'refresh':
        await fetchKernel(key, { progress, refresh: true });
        break;
      case 'build':
        await buildProjectModules(key, { progress });
        break;
      case 'check':
        await buildProjectModules(key, { progress, check: true });
        break;
      default:
        throw new VesperError('USAGE', 'usage: host/kernel/main.ts fetch|refresh|build|check [6.1] [6.12]');
    }
  }
}

function kernelKey(text: string): KernelKey {
  const key = kernelKeys.find((candidate) => candidate === text);
  if (!key)
    throw new VesperError('USAGE', `No kernel series ${text}; there are ${kernelKeys.join(' and ')}.`);
  return key;
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exitCode = error instanceof VesperError ? error.exitStatus : 1;
});
