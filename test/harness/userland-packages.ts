// SPDX-License-Identifier: Apache-2.0

import { debianTree } from './debian-tree.ts';

/** What a guest has that is installed into, and this machine need not; with the libraries that these bring. */
const packages = [
  ...['openssh-server', 'openssh-client', 'sudo', 'dkms', 'qemu-guest-agent'],
  ...['libwrap0', 'libnsl2', 'libtirpc3', 'libgssapi-krb5-2', 'libkrb5-3', 'libk5crypto3', 'libkrb5support0'],
  ...[
    'libkeyutils1',
    'libcom-err2',
    'libedit2',
    'libbsd0',
    'libmd0',
    'libaudit1',
    'libcap-ng0',
    'libsystemd0',
  ],
  ...['libssl3', 'libnuma1', 'liburing2', 'libglib2.0-0', 'libpcre2-8-0', 'libselinux1'],
] as const;

/** The tree of those packages. */
export const userlandPackages = (): Promise<string> => debianTree('userland', 'bookworm-1', packages);
