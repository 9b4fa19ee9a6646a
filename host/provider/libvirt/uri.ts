// SPDX-License-Identifier: Apache-2.0

/** Which daemons the provider can work with: channel and region of a guest are reached on the guest's own host only. */

import { stat } from 'node:fs/promises';
import { VesperError } from '../../error.ts';
import type { DomainDevices } from './domain-xml.ts';

/** Throws USAGE for a URI that the provider cannot serve. */
export function checkUri(uri: string): void {
  const [, driver, transport, host, path] =
    /^([a-z]+)(?:\+([a-z0-9]+))?:\/\/([^/?]*)\/([a-z]*)(?:\?.*)?$/.exec(uri) ?? [];
  const advice = 'write qemu:///system, or qemu:///session';
  if (driver === undefined || path === undefined)
    throw new VesperError('USAGE', `libvirt: "${uri}" is not a URI of libvirt: ${advice}`);
  if (host !== '' || (transport !== undefined && transport !== 'unix')) {
    const there = host === '' || host === undefined ? 'that host' : host.replace(/^.*@/, '');
    const message = `libvirt: ${uri} is on another host: a guest's channel and its shared memory are on the host it runs on, so run vesper serve on ${there}, with --libvirt qemu:///${path || 'system'}`;
    throw new VesperError('USAGE', message, { data: { uri } });
  }
  if (driver !== 'qemu' || (path !== 'system' && path !== 'session'))
    throw new VesperError('USAGE', `libvirt: ${uri}: only QEMU's domains can be probed: ${advice}`);
}

/** Whether domains run as the user of the daemon, instead of as whom libvirt says. */
export const isSession = (uri: string): boolean => /^[^/]*:\/\/\/session/.test(uri);

/**
 * Whom QEMU runs as: whom libvirt says, if it says so, else the user of the session's daemon, else this one.
 */
export async function qemuUser(uri: string, { user }: DomainDevices): Promise<{ uid: number; gid: number }> {
  if (user !== undefined) return user;
  const socket = isSession(uri) ? new URL(uri).searchParams.get('socket') : null;
  if (socket === null) return { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const { uid, gid } = await stat(socket);
  return { uid, gid };
}
