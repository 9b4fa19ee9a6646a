// SPDX-License-Identifier: Apache-2.0

import { dkmsTree } from '../install/dkms-tree.ts';
import { copyrightFile, kernelPart } from './copyright.ts';
import type { Control } from './deb.ts';
import type { Stage } from './stage.ts';

/** Lays out the frontend for guests that run Debian: its sources, which DKMS builds for each of the guest's kernels. */
export function layOutDkms(stage: Stage): Control {
  const frontend = dkmsTree();
  for (const { path, content } of [...frontend.sources, frontend.boot]) stage.write(path, content);
  stage.write('/usr/share/doc/vesper-dkms/copyright', copyrightFile([kernelPart('*')]));
  return {
    package: 'vesper-dkms',
    // dkms.conf names it, too.
    version: frontend.version,
    architecture: 'all',
    section: 'kernel',
    depends: ['dkms'],
    summary: "VESPER's driver for guests: takes kernel probes from the host",
    description: [
      'The half of VESPER that lives in the kernel of a virtual machine. It takes kernel probes from the hypervisor host over virtio-serial or vsock, loads them, and gives them memory shared with the host to write their events into.',
      "DKMS builds it for each kernel whose headers are installed. It is loaded when the guest boots: whoever has root on the host may then run code in the guest's kernel.",
    ],
  };
}
