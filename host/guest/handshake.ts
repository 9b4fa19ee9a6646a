// SPDX-License-Identifier: Apache-2.0

/** From an open channel to a running relay: hello, region, activate or resume. */

import { randomBytes } from 'node:crypto';
import { VesperError } from '../error.ts';
import { errnoName } from '../probe/errno.ts';
import type { Machine, ProvidedRegion } from '../provider/provider.ts';
import { Doorbell } from '../relay/doorbell.ts';
import { type RegionLayout, type RingSplit, regionLayout, splitRegion } from '../relay/layout.ts';
import { activateFlags, type PayloadOf, protocolVersion } from '../wire/message.ts';
import type { ControlLink } from './control-link.ts';
import { hexOf } from './incarnation.ts';
import type { InlineFeed } from './inline-feed.ts';
import { type LeftBehind, readRegionHeader } from './region-header.ts';
import { type PlaceOptions, type RelayPlace, relayPlace } from './relay-backend.ts';

/** A frontend answers in a few ms; a guest under TCG that is starved of memory may need seconds. */
const helloTimeLimitMs = 8_000;

export type Hello = PayloadOf<'hello'>;

export interface Established {
  readonly hello: Hello;
  readonly place: RelayPlace;
  readonly layout: RegionLayout;
  readonly epoch: bigint;
  /** The rings were kept: what was written while no service listened is in them. */
  readonly resumed: boolean;
  /** Undefined: the guest wakes the host by frames. */
  readonly doorbell: Doorbell | undefined;
}

/** The most a Linux kernel can be configured for (CONFIG_NR_CPUS on x86). */
const mostCpus = 8192;
const smallestChunk = 64;

export async function greet(link: ControlLink, guest: string): Promise<Hello> {
  const hello = await ask(link, guest);
  const { cpu_count, chunk_max } = hello;
  if (cpu_count < 1 || cpu_count > mostCpus || chunk_max < smallestChunk) {
    throw new VesperError(
      'PROTOCOL',
      `${guest}: what the frontend says of itself is impossible: ${cpu_count} CPUs, pieces of ${chunk_max} bytes`,
      { data: { guest, cpuCount: cpu_count, chunkMax: chunk_max } },
    );
  }
  return hello;
}

async function ask(link: ControlLink, guest: string): Promise<Hello> {
  try {
    const { payload } = await link.request(
      'hello_request',
      { min_version: protocolVersion, max_version: protocolVersion },
      'hello',
      { timeLimitMs: helloTimeLimitMs },
    );
    return payload;
  } catch (thrown) {
    if (!(thrown instanceof VesperError && thrown.code === 'TIMEOUT')) throw thrown;
    throw new VesperError(
      'UNREACHABLE',
      `${guest}: no frontend answers on the ${link.description}: load vesper.ko in the guest (vesper install ${guest} --ssh USER@HOST), or stop the other program that holds the channel`,
      { cause: thrown, data: { guest } },
    );
  }
}

export interface EstablishOptions extends PlaceOptions {
  /** Called before rings of a former epoch are laid out anew: the last chance to read them. */
  readonly salvage: (region: ProvidedRegion, left: LeftBehind) => void;
  /** Gets the records of a guest without shared memory. */
  readonly feed: InlineFeed;
  /** The guest rang the doorbell of its region's device. */
  readonly onRing: () => void;
}

export async function establish(options: EstablishOptions): Promise<Established> {
  const place = await relayPlace(options);
  try {
    return await start(place, options);
  } catch (thrown) {
    place.close();
    throw thrown;
  }
}

async function start(
  place: RelayPlace,
  { link, machine, hello, ...rest }: EstablishOptions,
): Promise<Established> {
  const { region } = place;
  const token = hexOf(region.token);
  const left = readRegionHeader(region);
  const resume =
    left !== undefined &&
    left.epoch === hello.epoch &&
    left.bootId === hexOf(hello.boot_id) &&
    hexOf(hello.relay_token) === token;
  if (left !== undefined && !resume) rest.salvage(region, left);
  const split = resume ? left.split : splitRegion(region.bytes, hello.cpu_count);
  const epoch = resume ? hello.epoch : freshEpoch();
  const layout = regionLayout({ regionBytes: region.bytes, cpuCount: hello.cpu_count, ...split });
  const doorbell = await listen(region, rest.onRing);
  try {
    if (place.backend === 'inline') {
      const { path, token } = region;
      rest.feed.open({ path, token, bootId: hello.boot_id, layout, epoch, resume });
    }
    const activated = await activate(link, machine, {
      hello,
      place,
      split,
      epoch,
      resume,
      rings: doorbell !== undefined,
    });
    if (place.backend === 'inline') rest.feed.attach(link);
    return {
      hello,
      place,
      layout,
      epoch,
      resumed: activated.resumed === 1,
      doorbell,
    };
  } catch (thrown) {
    doorbell?.close();
    throw thrown;
  }
}

/** Where somebody removed the pipe the guest is told to send frames. */
async function listen(region: ProvidedRegion, onRing: () => void): Promise<Doorbell | undefined> {
  try {
    return region.doorbell && (await Doorbell.open(region.doorbell.path, onRing));
  } catch {
    return undefined;
  }
}

interface Activation {
  readonly hello: Hello;
  readonly place: RelayPlace;
  readonly split: RingSplit;
  readonly epoch: bigint;
  readonly resume: boolean;
  /** The host listens to the doorbell of the region's device. */
  readonly rings: boolean;
}

async function activate(
  link: ControlLink,
  machine: Machine,
  { hello, place, split, epoch, resume, rings }: Activation,
): Promise<PayloadOf<'activated'>> {
  const { region } = place;
  const { payload } = await link.request(
    'activate',
    {
      epoch,
      token: region.token,
      backend: place.wireBackend,
      flags: resume ? activateFlags.RESUME.value : 0,
      critical_ring_bytes: split.criticalRingBytes,
      ring_bytes: split.ringBytes,
      doorbell: rings ? (region.doorbell?.value ?? 0) : 0,
    },
    'activated',
  );
  if (payload.error !== 0) {
    throw new VesperError(
      'RELAY',
      `${machine.name}: the frontend could not start the relay in a region of ${region.bytes} bytes for ${hello.cpu_count} CPUs: ${errnoName(payload.error)}`,
      { data: { guest: machine.name, errno: payload.error } },
    );
  }
  if (payload.cpu_count !== hello.cpu_count || payload.epoch !== epoch) {
    throw new VesperError(
      'PROTOCOL',
      `${machine.name}: the frontend activated another relay than was asked for`,
      {
        data: { guest: machine.name },
      },
    );
  }
  return payload;
}

/** Not zero; its low half, which the record tags use, is random too. */
function freshEpoch(): bigint {
  return randomBytes(8).readBigUInt64LE() | 1n;
}
