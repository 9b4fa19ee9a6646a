// SPDX-License-Identifier: Apache-2.0

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { messageOf, VesperError } from '../../error.ts';
import type { LibvirtAddon } from './native.ts';

/** From host/provider/libvirt and from dist/provider/libvirt alike. */
const addonPath = fileURLToPath(new URL('../../../build/native/libvirt.node', import.meta.url));
let loaded: LibvirtAddon | undefined;

/** Loads the addon once. Throws HOST where libvirt's library is missing, or the addon was not built or does not fit this Node. */
export function loadLibvirtAddon(path: string = addonPath): LibvirtAddon {
  if (loaded !== undefined) return loaded;
  try {
    loaded = createRequire(import.meta.url)(path) as LibvirtAddon;
    return loaded;
  } catch (cause) {
    const why = messageOf(cause);
    const remedy = /libvirt[-a-z]*\.so/.test(why)
      ? 'libvirt is not installed on this host: run "apt-get install libvirt0"'
      : 'run "make native"';
    throw new VesperError('HOST', `the libvirt bindings cannot be loaded from ${path} (${why}): ${remedy}`, {
      cause,
      data: { path },
    });
  }
}
