// SPDX-License-Identifier: Apache-2.0

/** The vsock device of a machine, and how one gets to it from the host. */

import { z } from 'zod';
import { devices, property } from './qom.ts';
import type { Site } from './site.ts';

/** By the host kernel's sockets, or through the unix socket of the process that does the machine's vsock. */
export type VsockRoute = { readonly cid: number } | { readonly hybridPath: string };

/** What is missing for it, for people: goes on from `the machine has no virtio-serial controller, `. */
export interface NoVsock {
  readonly lacks: string;
}

const kernelDevice = /^vhost-vsock-/;
const backendDevice = /^vhost-user-vsock-/;

export async function findVsock({ qmp, name, hybridVsockPath }: Site): Promise<VsockRoute | NoVsock> {
  const all = await devices(qmp);
  const kernels = all.find(({ type }) => kernelDevice.test(type));
  if (kernels !== undefined) return { cid: await property(qmp, kernels.path, 'guest-cid', z.number()) };
  if (all.some(({ type }) => backendDevice.test(type))) {
    if (hybridVsockPath !== undefined) return { hybridPath: hybridVsockPath };
    return {
      lacks: `and another process does its vsock: tell the service on which unix socket it takes calls ("--vsock ${name}=/path")`,
    };
  }
  return {
    lacks:
      'and no vsock device: plug one in while it runs ("device_add vhost-vsock-pci,guest-cid=3", any free number from 3), or start it with "-device virtio-serial-pci", or in libvirt with <vsock><cid auto=\'yes\'/></vsock> or <controller type=\'virtio-serial\'/>',
  };
}
