// SPDX-License-Identifier: Apache-2.0

/**
 * Stands in for many guests: no kernel, no QEMU, but for each a channel and a region of its own, and a peer that speaks a frontend's
 * protocol and writes records as one does. For what depends on how many guests there are; two hundred real ones would not fit here.
 */

import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Channel } from '../../host/channel/channel.ts';
import { encodeFrame, type Frame, FrameParser } from '../../host/channel/frame.ts';
import { connectUnixSocket } from '../../host/channel/unix-socket.ts';
import { VesperError } from '../../host/error.ts';
import type { Machine, ProvidedRegion, Provider, ProviderEvents } from '../../host/provider/provider.ts';
import { createRegionFile, readRegionFile } from '../../host/provider/region-file.ts';
import { regionLayout } from '../../host/relay/layout.ts';
import type { MessageName } from '../../host/wire/message.ts';
import { RegionWriter } from './region-writer.ts';
import { frontendAnswer } from './stand-in-guest.ts';

const regionBytes = 1 << 20;
const otherRing = 1;

/** Where one guest of a fleet is to be found; the same in every process. */
interface Place {
  readonly name: string;
  readonly uuid: string;
  readonly directory: string;
}

const placeOf = (directory: string, number: number): Place => {
  const name = `stand-in-${String(number).padStart(3, '0')}`;
  return {
    name,
    uuid: `00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`,
    directory: join(directory, name),
  };
};

/** The guest's end of one channel and region. */
export class StandInPeer implements AsyncDisposable {
  readonly place: Place;
  readonly requests: MessageName[] = [];
  /** Requests it leaves without an answer, as a guest does that is stuck. */
  mute: (request: Frame) => boolean = () => false;
  readonly #server: Server = createServer((socket) => this.#serve(socket));
  readonly #region: ProvidedRegion;
  #socket: Socket | undefined;
  #rings: RegionWriter | undefined;
  /** Of the probe that was pushed last. */
  #slot = 0;

  private constructor(place: Place, region: ProvidedRegion) {
    this.place = place;
    this.#region = region;
  }

  static async start(directory: string, number: number): Promise<StandInPeer> {
    const place = placeOf(directory, number);
    mkdirSync(place.directory, { recursive: true });
    const peer = new StandInPeer(place, await createRegionFile(join(place.directory, 'region'), regionBytes));
    peer.#server.listen(join(place.directory, 'channel'));
    await once(peer.#server, 'listening');
    return peer;
  }

  /** Records of the probe that was pushed last, in the ring of what is not critical; rings where it is asked to. */
  write(event: number, payload: Uint8Array, times: number): void {
    const rings = this.#rings;
    const ring = rings?.ring(otherRing);
    if (rings === undefined || ring === undefined) throw new Error(`${this.place.name} is not activated`);
    for (let record = 0; record < times; record += 1) ring.write({ slot: this.#slot, event, payload });
    if (!ring.needWakeup) return;
    ring.clearNeedWakeup();
    this.#socket?.write(encodeFrame('doorbell', 0, { epoch: rings.epoch }));
  }

  #serve(socket: Socket): void {
    this.#socket?.destroy();
    this.#socket = socket;
    const parser = new FrameParser({ from: 'host' });
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      for (const request of parser.push(chunk)) this.#answer(socket, request);
    });
  }

  #answer(socket: Socket, request: Frame): void {
    this.requests.push(request.name);
    if (this.mute(request)) return;
    if (request.name === 'activate') this.#activate(request as Frame<'activate'>);
    if (request.name === 'push_commit') this.#slot = (request as Frame<'push_commit'>).payload.slot;
    const answer =
      request.name === 'unload'
        ? encodeFrame('unloaded', request.requestId, {})
        : frontendAnswer(request, {
            relay_token: this.#region.token,
            boot_id: Buffer.from(this.place.uuid.replaceAll('-', ''), 'hex'),
          });
    if (answer !== undefined) socket.write(answer);
  }

  #activate({ payload }: Frame<'activate'>): void {
    const split = { criticalRingBytes: payload.critical_ring_bytes, ringBytes: payload.ring_bytes };
    const layout = regionLayout({ regionBytes, cpuCount: 1, ...split });
    this.#rings?.close();
    this.#rings = new RegionWriter(this.#region.path, layout, payload.epoch, { token: this.#region.token });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket?.destroy();
    this.#rings?.close();
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }
}

/** The machine of one of them, as a provider would give it. */
class StandInMachine implements Machine {
  readonly name: string;
  readonly uuid: string;
  readonly provider = 'stand-in';
  readonly state = 'running';
  readonly #directory: string;
  readonly #unreachable: boolean;

  constructor({ name, uuid, directory }: Place, unreachable: boolean) {
    this.name = name;
    this.uuid = uuid;
    this.#directory = directory;
    this.#unreachable = unreachable;
  }

  openChannel(): Promise<Channel> {
    if (this.#unreachable) return new Promise(() => {});
    return connectUnixSocket(join(this.#directory, 'channel'));
  }

  regionRoom(): Promise<number> {
    return Promise.resolve(Number.POSITIVE_INFINITY);
  }

  async provideRegion(): Promise<ProvidedRegion> {
    const file = (await readdir(this.#directory)).find((name) => name.startsWith('region-'));
    const region = file === undefined ? undefined : await readRegionFile(join(this.#directory, file));
    if (region === undefined) throw new Error(`${this.name} has no region`);
    return region;
  }

  withdrawRegion(): Promise<void> {
    return Promise.resolve();
  }

  provideShadow(): Promise<never> {
    return Promise.reject(new VesperError('PROVIDER', `${this.name} has its region by ivshmem`));
  }

  sharedRam(): Promise<never> {
    return Promise.reject(new VesperError('PROVIDER', `${this.name} has no RAM`));
  }

  release(): Promise<void> {
    return Promise.resolve();
  }
}

/** Finds the guests of a fleet by where they are; `unreachable` are those whose hypervisor never answers, by number. */
export class StandInProvider implements Provider {
  readonly name = 'stand-in';
  readonly #machines: readonly Machine[];

  constructor(directory: string, count: number, unreachable: readonly number[] = []) {
    this.#machines = Array.from(
      { length: count },
      (_, number) => new StandInMachine(placeOf(directory, number), unreachable.includes(number)),
    );
  }

  start(events: ProviderEvents): Promise<void> {
    for (const machine of this.#machines) events.machineFound(machine);
    return Promise.resolve();
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }
}
