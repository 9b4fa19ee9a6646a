// SPDX-License-Identifier: Apache-2.0

import type { Command } from 'commander';
import { VesperError } from '../error.ts';
import type { GuestKernel } from '../probe/finding.ts';
import { findSymvers } from '../probe/symvers.ts';
import { apiOf } from './context.ts';

/** The kernel of a guest that the running service has a session with. Throws NOT_FOUND or UNREACHABLE. */
export async function guestKernel(guest: string, command: Command): Promise<GuestKernel> {
  const { name, state, reason, kernel, vermagic, machine, image_max } = await apiOf(command).guest(guest);
  if (vermagic === '') {
    throw new VesperError(
      'UNREACHABLE',
      `${name} is ${state} (${reason}): its kernel is known only while a session is active`,
      {
        data: { guest: name, state },
      },
    );
  }
  return {
    name,
    kernelRelease: kernel,
    vermagic,
    machine,
    imageMax: image_max,
    symbols: await findSymvers(kernel),
  };
}
