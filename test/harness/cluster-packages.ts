// SPDX-License-Identifier: Apache-2.0

import { cpSync, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateApt } from '../../host/kernel/apt.ts';
import { cacheDirectory, publishDirectory, scratchDirectory } from '../../host/kernel/cache.ts';

/**
 * What a node of a cluster needs beyond Debian 12's base system and the packages of `make setup`. They are unpacked, not
 * installed: installing them would start daemons and add users on the machine that only runs a test.
 */
const packages = [
  ...['corosync', 'pacemaker', 'pacemaker-common', 'pacemaker-cli-utils', 'pacemaker-resource-agents'],
  ...['resource-agents', 'libvirt-clients', 'iproute2', 'procps', 'libxml2-utils'],
  ...['libcfg7', 'libcmap4', 'libcorosync-common4', 'libcpg4', 'libquorum5', 'libvotequorum8'],
  ...['libknet1', 'libnozzle1', 'libqb100', 'libstatgrab10'],
  ...['libcib27', 'libcrmcluster29', 'libcrmcommon34', 'libcrmservice28', 'liblrmd28', 'libpacemaker1'],
  ...['libpe-rules26', 'libpe-status28', 'libstonithd26', 'libxslt1.1', 'libpils2', 'libltdl7'],
  ...['libbpf1', 'libmnl0', 'libxtables12', 'libproc2-0', 'libncurses6', 'libplumb2', 'libnet1', 'liblzo2-2'],
];

/** Raised when the list changes, so that older caches are fetched again. */
const layout = 2;

/** How long a test may wait for them. */
export const fetchLimitMs = 600_000;

/** The tree of those packages, to be laid over a node's `/usr`; downloaded once, then taken from the cache. */
export async function fetchClusterPackages(): Promise<string> {
  const parent = join(cacheDirectory(), 'cluster');
  const target = join(parent, `bookworm-${layout}`);
  if (existsSync(target)) return target;
  const scratch = scratchDirectory(parent, '.fetch-');
  try {
    const apt = new PrivateApt(join(scratch, 'apt'), 'bookworm');
    await apt.update();
    const tree = join(scratch, 'tree');
    await apt.unpack(packages, tree);
    // Where /bin and its like are links into /usr.
    for (const folder of ['bin', 'sbin', 'lib']) {
      const from = join(tree, folder);
      if (!existsSync(from)) continue;
      cpSync(from, join(tree, 'usr', folder), { recursive: true, verbatimSymlinks: true });
      rmSync(from, { recursive: true });
    }
    publishDirectory(tree, target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return target;
}
