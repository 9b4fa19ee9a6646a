// SPDX-License-Identifier: Apache-2.0

/** Compiles test/harness/guest/peer.c, once for the same source; returns the path. */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDirectory } from '../../host/kernel/cache.ts';
import { runCommand } from '../../host/kernel/command.ts';

export async function buildPeer(): Promise<string> {
  const source = join(import.meta.dirname, 'guest/peer.c');
  const hash = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 24);
  const folder = join(cacheDirectory(), 'images');
  const peer = join(folder, `peer-${hash}`);
  if (existsSync(peer)) return peer;
  mkdirSync(folder, { recursive: true });
  const flags = ['-static', '-s', '-O2', '-Wall', '-Wextra', '-Werror'];
  await runCommand('gcc', [...flags, '-o', `${peer}.${process.pid}`, source], { package: 'build-essential' });
  renameSync(`${peer}.${process.pid}`, peer);
  return peer;
}
