// SPDX-License-Identifier: Apache-2.0

import { existsSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { runCommand } from '../../host/kernel/command.ts';
import { authKey } from './cluster-config.ts';
import { debianTree } from './debian-tree.ts';

/** Of Debian 12: the web server, Pacemaker's daemon for guest nodes, and all the libraries that these two want. */
const packages = [
  ...['lighttpd', 'pacemaker-remote'],
  ...[
    'libcrmcommon34',
    'libcrmservice28',
    'liblrmd28',
    'libstonithd26',
    'libqb100',
    'libpils2',
    'libltdl7',
    'libc6',
  ],
  ...['libglib2.0-0', 'libgnutls30', 'libxml2', 'libxslt1.1', 'libbz2-1.0', 'liblzma5', 'zlib1g', 'libuuid1'],
  ...['libicu72', 'libstdc++6', 'libgcc-s1', 'libpcre2-8-0', 'libxxhash0', 'libnettle8', 'libhogweed6'],
  ...['libgmp10', 'libp11-kit0', 'libffi8', 'libidn2-0', 'libunistring2', 'libtasn1-6', 'libcrypt1'],
  ...['libdbus-1-3', 'libsystemd0', 'libgcrypt20', 'libgpg-error0', 'liblz4-1', 'libzstd1', 'libcap2'],
] as const;

const programs = ['usr/sbin/lighttpd', 'usr/sbin/pacemaker-remoted'] as const;
const libraries = ['usr/lib/x86_64-linux-gnu', 'usr/lib'] as const;
const sources = join(import.meta.dirname, 'guest/web');

export const fetchWebPackages = (): Promise<string> => debianTree('web', 'bookworm-1', packages);

/** What a guest's image has beyond the usual to be a web server and a guest node: path in the guest → content or file. */
export async function webGuestFiles(
  name: string,
  address: string,
  page: string,
): Promise<Readonly<Record<string, Uint8Array | string>>> {
  const tree = await fetchWebPackages();
  const text = (content: string) => Buffer.from(content);
  return {
    ...(await withLibraries(tree)),
    'etc/rc': join(sources, 'rc'),
    'etc/web-guest': text(`name=${name}\naddress=${address}\n`),
    'etc/passwd': text('root:x:0:0::/:/bin/sh\nhacluster:x:189:189::/:/bin/false\n'),
    'etc/group': text('root:x:0:\nhaclient:x:189:\n'),
    'etc/hosts': text(`127.0.0.1 localhost\n${address} ${name}\n`),
    'etc/pacemaker/authkey': text(authKey),
    'etc/lighttpd.conf': join(sources, 'lighttpd.conf'),
    'srv/www/index.html': text(page),
    [webAgent.path]: webAgent.source,
  };
}

/** The agent of the web server, which the nodes of the cluster want to have, too: they ask it what it can do. */
export const webAgent = {
  path: 'usr/lib/ocf/resource.d/vesper-test/httpd',
  source: join(sources, 'httpd'),
};

/** The programs and, by the names that they are looked for, the libraries they are linked with. */
async function withLibraries(tree: string): Promise<Record<string, string>> {
  const files: Record<string, string> = {};
  const waiting: string[] = programs.map((program) => {
    files[program.replace('usr/sbin', 'bin')] = join(tree, program);
    return join(tree, program);
  });
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    const { stdout } = await runCommand('objdump', ['-p', file], { package: 'binutils' });
    for (const [, name = ''] of stdout.matchAll(/^ +NEEDED +(\S+)$/gm)) {
      const folder = libraries.find((one) => existsSync(join(tree, one, name)));
      if (folder === undefined) throw new Error(`${basename(file)} wants ${name}, which no package here has`);
      // The programs have the loader's path in them.
      const path = `${name.startsWith('ld-linux') ? 'lib64' : folder}/${name}`;
      if (files[path] !== undefined) continue;
      files[path] = realpathSync(join(tree, folder, name));
      waiting.push(files[path]);
    }
  }
  return files;
}
