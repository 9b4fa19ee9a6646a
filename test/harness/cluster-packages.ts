// SPDX-License-Identifier: Apache-2.0

import { debianTree } from './debian-tree.ts';

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

/** How long a test may wait for them. */
export const fetchLimitMs = 600_000;

/** The tree of those packages, to be laid over a node's `/usr`. */
export const fetchClusterPackages = (): Promise<string> => debianTree('cluster', 'bookworm-2', packages);
