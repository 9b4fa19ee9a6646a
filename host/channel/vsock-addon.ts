// SPDX-License-Identifier: Apache-2.0

/** What native/vsock offers. */

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { messageOf, VesperError } from '../error.ts';

export interface VsockAddon {
  /**
   * Calls a port of a guest; returns at once, with the file descriptor of a unix socket that leads there. The first line on it is
   * `OK <own port>`, or `NO <errno>`. The descriptor is the caller's. Throws where the kernel has no vsock.
   */
  call(cid: number, port: number, timeLimitMs: number): number;
}

/** From host/channel and from dist/channel alike. */
const addonPath = fileURLToPath(new URL('../../build/native/vsock.node', import.meta.url));
let loaded: VsockAddon | undefined;

/** Loads the addon once. Throws HOST where it was not built or does not fit this Node. */
export function loadVsockAddon(): VsockAddon {
  if (loaded !== undefined) return loaded;
  try {
    loaded = createRequire(import.meta.url)(addonPath) as VsockAddon;
    return loaded;
  } catch (cause) {
    throw new VesperError(
      'HOST',
      `vsock cannot be used: ${addonPath} cannot be loaded (${messageOf(cause)}): run "make native"`,
      { cause, data: { path: addonPath } },
    );
  }
}
