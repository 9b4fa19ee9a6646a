// SPDX-License-Identifier: Apache-2.0

import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { nodeNamespaces } from './cluster-node.ts';

/** What a node does to the machine it lives on, as far as a machine may forbid it. */
const attempt = `mount -t tmpfs try /run && mkdir /run/upper /run/work &&
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work try /etc`;

/**
 * Why this machine cannot have a cluster, for the name of a test that is skipped; undefined: it can. `bridge`: one with virtual
 * machines in its network.
 */
export function clusterObstacle({ bridge = false } = {}): string | undefined {
  if (process.getuid?.() !== 0) return 'it takes root';
  if (bridge && !opens('/dev/net/tun')) return 'it takes /dev/net/tun';
  const { status, stderr, error } = spawnSync('unshare', [...nodeNamespaces, 'sh', '-c', attempt], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  if (status === 0) return undefined;
  return `root may not make namespaces and mounts here: ${error?.message ?? stderr.trim().split('\n').at(-1)}`;
}

function opens(device: string): boolean {
  try {
    closeSync(openSync(device, 'r+'));
    return true;
  } catch {
    return false;
  }
}
