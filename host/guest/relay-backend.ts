// SPDX-License-Identifier: Apache-2.0

/** Which memory the rings of a guest lie in: the first backend that its machine and its frontend can do. */

import { messageOf, VesperError } from '../error.ts';
import type { Logger } from '../log.ts';
import type { Machine, ProvidedRegion } from '../provider/provider.ts';
import { defaultRegionBytes } from '../relay/layout.ts';
import { backends, features } from '../wire/message.ts';
import type { ControlLink } from './control-link.ts';
import { pagesRegion } from './guest-pages.ts';
import type { Hello } from './handshake.ts';
import { hexOf } from './incarnation.ts';
import type { RegionNotices } from './region-notices.ts';

/** In the order of preference. */
export const relayBackends = ['ivshmem', 'guest-pages', 'inline'] as const;
export type RelayBackend = (typeof relayBackends)[number];

const regionTimeLimitMs = 8_000;
/** Behind its hello the frontend tells of all regions it knows; one that was stamped anew since is not found later. */
const announcedWithinMs = 500;

const wire: Readonly<Record<RelayBackend, number>> = {
  ivshmem: backends.IVSHMEM.value,
  'guest-pages': backends.GUEST_PAGES.value,
  inline: backends.INLINE.value,
};
const needed: Readonly<Record<RelayBackend, number>> = {
  // What every frontend can do.
  ivshmem: 0,
  'guest-pages': features.GUEST_PAGES.value,
  inline: features.INLINE.value,
};

export interface RelayPlace {
  readonly backend: RelayBackend;
  /** As the activate has it. */
  readonly wireBackend: number;
  /** Why it is this one: what hindered those before it. Empty for the first. */
  readonly why: string;
  readonly region: ProvidedRegion;
  /** Lets go of what was opened for it; the region itself stays. */
  close(): void;
}

export interface PlaceOptions {
  readonly link: ControlLink;
  readonly machine: Machine;
  readonly hello: Hello;
  /** Undefined: by the guest's CPUs. */
  readonly regionBytes: number | undefined;
  readonly notices: RegionNotices;
  /** Only this one; undefined: the first that can be had. */
  readonly backend: RelayBackend | undefined;
  readonly log: Logger;
}

/** Throws what the first backend failed with where none can be had. */
export async function relayPlace(options: PlaceOptions): Promise<RelayPlace> {
  const { backend: forced, machine, log, hello } = options;
  const hindrances: string[] = [];
  let first: unknown;
  for (const backend of forced === undefined ? relayBackends : [forced]) {
    try {
      if ((hello.features & BigInt(needed[backend])) !== BigInt(needed[backend])) {
        throw new VesperError('RELAY', `${machine.name}: the frontend is too old for it`);
      }
      const { region, close } = await provide(backend, options);
      return { backend, wireBackend: wire[backend], why: hindrances.join('; '), region, close };
    } catch (thrown) {
      // The guest or its QEMU is gone: then nothing can be had.
      if (!(thrown instanceof VesperError) || ['SESSION_ENDED', 'UNREACHABLE'].includes(thrown.code))
        throw thrown;
      first ??= thrown;
      const why = messageOf(thrown);
      hindrances.push(`no ${backend}: ${why.replace(`${machine.name}: `, '')}`);
      log.info({ guest: machine.name, backend }, `${machine.name}: no relay by ${backend}: ${why}`);
    }
  }
  throw first;
}

async function provide(
  backend: RelayBackend,
  options: PlaceOptions,
): Promise<{ readonly region: ProvidedRegion; close(): void }> {
  const bytes = options.regionBytes ?? defaultRegionBytes(options.hello.cpu_count);
  switch (backend) {
    case 'ivshmem':
      return { region: await mappedRegion(options), close: () => {} };
    case 'guest-pages':
      return pagesRegion(options.link, options.machine, bytes);
    case 'inline':
      return { region: await options.machine.provideShadow(bytes), close: () => {} };
  }
}

/** A region that the frontend says it has mapped. */
async function mappedRegion({ machine, hello, notices, ...options }: PlaceOptions): Promise<ProvidedRegion> {
  const bytes = options.regionBytes ?? defaultRegionBytes(hello.cpu_count, await machine.regionRoom());
  const region = await machine.provideRegion(bytes);
  if (hexOf(hello.relay_token) === hexOf(region.token)) return region;
  const restamped = region.restamped === true;
  try {
    await notices.wait(region, restamped ? announcedWithinMs : regionTimeLimitMs);
    return region;
  } catch (thrown) {
    const again = codeOf(thrown) === 'TIMEOUT' || (restamped && codeOf(thrown) === 'RELAY');
    if (!again && codeOf(thrown) === 'RELAY') await withdraw(machine);
    if (!again) throw thrown;
  }
  // A guest that destroyed the header finds no region of ours when it boots, and looks again only at a new device.
  await machine.withdrawRegion();
  const another = await machine.provideRegion(bytes);
  try {
    await notices.wait(another, regionTimeLimitMs);
    return another;
  } catch (thrown) {
    if (codeOf(thrown) === 'RELAY' || codeOf(thrown) === 'TIMEOUT') await withdraw(machine);
    throw thrown;
  }
}

const codeOf = (thrown: unknown) => (thrown instanceof VesperError ? thrown.code : undefined);

/** A device that the guest has no use for serves nobody; it goes at the latest with the machine. */
const withdraw = (machine: Machine): Promise<void> => machine.withdrawRegion().catch(() => undefined);
