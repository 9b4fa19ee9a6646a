// SPDX-License-Identifier: Apache-2.0

import { cpSync, existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateApt } from '../../host/kernel/apt.ts';
import { cacheDirectory, publishDirectory, scratchDirectory } from '../../host/kernel/cache.ts';

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

/** Raised when what is unpacked changes. */
const layout = 1;

/**
 * Debian packages, unpacked into a folder of the cache and not installed: nothing of them runs on this machine by itself. Downloaded
 * once. Everything lies below `usr` and `etc`, as on a system with merged folders.
 */
export async function userlandPackages(): Promise<string> {
  const parent = join(cacheDirectory(), 'userland');
  const target = join(parent, `bookworm-${layout}`);
  if (existsSync(target)) return target;
  const scratch = scratchDirectory(parent, '.fetch-');
  try {
    const apt = new PrivateApt(join(scratch, 'apt'), 'bookworm');
    await apt.update();
    const unpacked = join(scratch, 'tree');
    await apt.unpack(packages, unpacked);
    for (const folder of ['bin', 'sbin', 'lib']) {
      const from = join(unpacked, folder);
      if (!existsSync(from)) continue;
      cpSync(from, join(unpacked, 'usr', folder), { recursive: true, verbatimSymlinks: true });
      rmSync(from, { recursive: true });
    }
    for (const folder of ['var', 'run']) rmSync(join(unpacked, folder), { recursive: true, force: true });
    renameSync(unpacked, join(scratch, 'done'));
    publishDirectory(join(scratch, 'done'), target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return target;
}
