// SPDX-License-Identifier: Apache-2.0

/** Who asked: the kernel's word for the process at the other end of the API's socket, not what it says of itself. */

import { execFile } from 'node:child_process';
import type { Socket } from 'node:net';
import { promisify } from 'node:util';
import { loadSocketAddon } from '../channel/native.ts';
import { VesperError } from '../error.ts';

const run = promisify(execFile);
const lookUpLimitMs = 2_000;
const names = new Map<number, Promise<string>>();

/** For the audit log: `alice (uid 1000, pid 4242)`. Throws UNREACHABLE where it hung up. */
export async function peerOf(socket: Socket): Promise<string> {
  // Node has no public way to the descriptor of a socket.
  const fd = (socket as unknown as { readonly _handle?: { readonly fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) throw new VesperError('UNREACHABLE', 'the client hung up');
  const { uid, pid } = loadSocketAddon().peer(fd);
  return `${await userName(uid)} (uid ${uid}, pid ${pid})`;
}

/** By getent(1), which asks whatever directory the host is configured for, in a process of its own: it may take its time. */
function userName(uid: number): Promise<string> {
  const known = names.get(uid);
  if (known !== undefined) return known;
  const found = run('getent', ['passwd', String(uid)], { timeout: lookUpLimitMs }).then(
    ({ stdout }) => stdout.split(':')[0] ?? '',
    () => {
      names.delete(uid);
      return 'unknown user';
    },
  );
  names.set(uid, found);
  return found;
}

/** Throws USAGE where there is no group of that name or number. */
export async function groupId(group: string): Promise<number> {
  try {
    const { stdout } = await run('getent', ['group', group], { timeout: lookUpLimitMs });
    const [, , gid = ''] = stdout.split(':');
    return Number(gid);
  } catch (thrown) {
    throw new VesperError(
      'USAGE',
      `there is no group ${group}, which the API's socket should belong to: groupadd --system ${group}`,
      { cause: thrown },
    );
  }
}
