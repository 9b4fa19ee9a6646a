// SPDX-License-Identifier: Apache-2.0

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { userlandPackages } from './userland-packages.ts';

/** The QEMU guest agent of Debian and the libraries it needs, for `MachineOptions.files`; it is started by `startGuestAgent`. */
export async function guestAgentFiles(): Promise<Readonly<Record<string, string>>> {
  const tree = await userlandPackages();
  const program = join(tree, 'usr/sbin/qemu-ga');
  const libraries = join(tree, 'usr/lib/x86_64-linux-gnu');
  const env = { ...process.env, LD_LIBRARY_PATH: `${libraries}:${join(tree, 'lib/x86_64-linux-gnu')}` };
  const listed = execFileSync('ldd', [program], { env, encoding: 'utf8' });
  const files: Record<string, string> = { 'bin/qemu-ga': program };
  for (const [, name = '', path = ''] of listed.matchAll(/^\s*(?:(\S+) => )?(\/\S+) \(/gm))
    files[name === '' ? path.slice(1) : `lib/x86_64-linux-gnu/${name}`] = path;
  return files;
}

export const agentPort = (socket: string): readonly string[] => [
  ...['-chardev', `socket,id=agent,path=${socket},server=on,wait=off`],
  ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
];

/** What starts it in a guest that has both. */
export const startGuestAgent =
  'qemu-ga -m virtio-serial -p /dev/$(basename $(dirname $(grep -l "^org.qemu.guest_agent.0$" /sys/class/virtio-ports/*/name))) -t /tmp';
