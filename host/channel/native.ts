// SPDX-License-Identifier: Apache-2.0

/** The native part of unix sockets (`build/native/socket.node`, source in `native/socket/`), typed. Errors carry `code`, `errno`, `syscall`. */

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { messageOf, VesperError } from '../error.ts';

/** Who connected, as the kernel noted it at that moment. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface SocketAddon {
  /** Of a connected unix socket, by its file descriptor. */
  peer(fd: number): PeerCredentials;
  /** One datagram to a unix socket, `@…` in the abstract namespace. Never waits: throws EAGAIN where the receiver is full. */
  send(path: string, text: string): void;
}

/** From host/channel and from dist/channel alike. */
const addonPath = fileURLToPath(new URL('../../build/native/socket.node', import.meta.url));
let loaded: SocketAddon | undefined;

/** Loads the addon once. Throws HOST where it was not built or does not fit this Node. */
export function loadSocketAddon(): SocketAddon {
  if (loaded !== undefined) return loaded;
  try {
    loaded = createRequire(import.meta.url)(addonPath) as SocketAddon;
    return loaded;
  } catch (cause) {
    throw new VesperError(
      'HOST',
      `the native socket addon cannot be loaded from ${addonPath} (${messageOf(cause)}): run "make native"`,
      { cause, data: { path: addonPath } },
    );
  }
}
