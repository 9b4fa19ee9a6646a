// SPDX-License-Identifier: Apache-2.0

/**
 * Stands in for a guest at the other end of the channel: there is no kernel and no QEMU, only what a test lets it say. For what no
 * real frontend would say; whatever a real one does is tested with a real one.
 */

import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Channel } from '../../host/channel/channel.ts';
import { encodeFrame, type Frame, FrameParser } from '../../host/channel/frame.ts';
import { connectUnixSocket } from '../../host/channel/unix-socket.ts';
import { VesperError } from '../../host/error.ts';
import type { RelayBackend } from '../../host/guest/relay-backend.ts';
import { silentLog } from '../../host/log.ts';
import type {
  Machine,
  ProvidedRegion,
  Provider,
  ProviderEvents,
  SharedRam,
} from '../../host/provider/provider.ts';
import { createRegionFile, keptRegionFile } from '../../host/provider/region-file.ts';
import type { RelayFactory, RelayReader } from '../../host/relay/relay.ts';
import type { ManagedGuest } from '../../host/service/managed-guest.ts';
import { Service } from '../../host/service/service.ts';
import { limits, type MessageName, type PayloadOf } from '../../host/wire/message.ts';

const regionBytes = 1 << 20;

/** What it says to a request: bytes, or nothing. `usual` is what a frontend would say, its hello with some fields changed. */
export type Behaviour = (
  request: Frame,
  usual: (change?: Partial<PayloadOf<'hello'>>) => Uint8Array | undefined,
  socket: Socket,
) => Uint8Array | undefined;

export class StandInGuest implements Machine, Provider, AsyncDisposable {
  readonly name = 'stand-in';
  readonly uuid = randomUUID();
  readonly provider = 'stand-in';
  readonly state = 'running';
  readonly directory = mkdtempSync(join(tmpdir(), 'vesper-stand-in-'));
  readonly requests: MessageName[] = [];
  readonly service: Service;
  behaviour: Behaviour;
  readonly #server: Server = createServer((socket) => this.#serve(socket));
  readonly #sockets = new Set<Socket>();
  #region: ProvidedRegion | undefined;

  private constructor(behaviour: Behaviour, heartbeatMs: number, relayBackend: RelayBackend | undefined) {
    this.behaviour = behaviour;
    this.service = new Service({
      log: silentLog(),
      relays: noRelays,
      providers: [this as Provider],
      config: {
        runDirectory: join(this.directory, 'run'),
        stateDirectory: join(this.directory, 'state'),
        catalogueRoots: [],
        regionBytes,
        relayBackend,
        heartbeatMs,
      },
    });
  }

  /** A service whose only guest behaves like that. */
  static async start(
    behaviour: Behaviour,
    heartbeatMs = 100,
    options: { readonly relayBackend?: RelayBackend; readonly ram?: () => SharedRam } = {},
  ): Promise<StandInGuest> {
    const guest = new StandInGuest(behaviour, heartbeatMs, options.relayBackend);
    guest.ram = options.ram;
    guest.#server.listen(join(guest.directory, 'channel'));
    await once(guest.#server, 'listening');
    await guest.provideRegion(regionBytes);
    await guest.service.start();
    return guest;
  }

  get managed(): ManagedGuest {
    return this.service.guest(this.name);
  }

  /** Resolves with the first reason the service gives that matches. */
  reason(pattern: RegExp, timeLimitMs: number): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const look = () => {
      if (!pattern.test(this.managed.reason)) return;
      clearTimeout(timer);
      unwatch();
      resolve(this.managed.reason);
    };
    const timer = setTimeout(
      () => reject(new Error(`${this.managed.state}: ${this.managed.reason}`)),
      timeLimitMs,
    );
    const unwatch = this.managed.watch(look);
    look();
    return promise;
  }

  // --- machine and provider ---

  start(events?: ProviderEvents): Promise<void> {
    events?.machineFound(this);
    return Promise.resolve();
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }

  openChannel(): Promise<Channel> {
    return connectUnixSocket(join(this.directory, 'channel'));
  }

  regionRoom(): Promise<number> {
    return Promise.resolve(Number.POSITIVE_INFINITY);
  }

  async provideRegion(bytes: number): Promise<ProvidedRegion> {
    this.#region ??= await createRegionFile(join(this.directory, 'region'), bytes);
    return this.#region;
  }

  /** What the frontend says of its pages is looked for in this. */
  ram: (() => SharedRam) | undefined;

  async sharedRam(): Promise<SharedRam> {
    if (this.ram === undefined) throw new VesperError('PROVIDER', 'a stand-in has no RAM');
    return this.ram();
  }

  provideShadow(bytes: number): Promise<ProvidedRegion> {
    return keptRegionFile(join(this.directory, 'shadow'), bytes);
  }

  withdrawRegion(): Promise<void> {
    return Promise.resolve();
  }

  release(): Promise<void> {
    return Promise.resolve();
  }

  // --- the other end ---

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    const parser = new FrameParser({ from: 'host' });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('data', (chunk: Buffer) => {
      for (const request of parser.push(chunk)) {
        this.requests.push(request.name);
        const answer = this.behaviour(request, (change) => this.#usual(request, change), socket);
        if (answer !== undefined) socket.write(answer);
      }
    });
  }

  #usual(request: Frame, change: Partial<PayloadOf<'hello'>> = {}): Uint8Array | undefined {
    return frontendAnswer(request, { relay_token: this.#region?.token ?? new Uint8Array(16), ...change });
  }

  /** Ends the service with it. */
  async close(): Promise<void> {
    await this.service.stop();
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What a frontend would say to a request; `hello` is what differs in its hello. */
export function frontendAnswer(request: Frame, hello: Partial<PayloadOf<'hello'>>): Uint8Array | undefined {
  const { requestId: id } = request;
  switch (request.name) {
    case 'hello_request':
      return encodeFrame('hello', id, {
        cpu_count: 1,
        page_size: 4096,
        chunk_max: limits.CHUNK_MAX.value,
        image_max: limits.IMAGE_MAX.value,
        kernel_release: '6.1.0-56-cloud-amd64',
        vermagic: '6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions ',
        machine: 'x86_64',
        boot_id: new Uint8Array(16).fill(1),
        ...hello,
      });
    case 'activate':
      return encodeFrame('activated', id, { ring_count: 2, cpu_count: 1, epoch: request.payload.epoch });
    case 'status':
      return encodeFrame('status_report', id, {}, []);
    case 'ping':
      return encodeFrame('pong', id, { host_time_ns: request.payload.host_time_ns });
    case 'push_begin':
      return encodeFrame('push_ready', id, { slot: request.payload.slot });
    case 'push_commit':
      return encodeFrame('loaded', id, { slot: request.payload.slot, stage: 3 }, []);
    default:
      return undefined;
  }
}

/** A stand-in writes no records. */
const noRelays: RelayFactory = {
  open: () =>
    ({
      start: () => {},
      wake: () => {},
      look: () => {},
      drain: () => {},
      drainBeyond: () => {},
      statistics: () => ({
        ...{
          attempts: 0,
          delivered: 0,
          lost: 0,
          gaps: 0,
          outstanding: 0,
          duplicates: 0,
          quarantined: 0,
          overwritten: 0,
        },
        ...{ agrees: true, rings: 2, perRing: [], batches: 0, handlerErrors: 0 },
      }),
      verify: () => [],
      heartbeatNs: () => 0,
      compareClocks: async () => undefined,
      close: () => {},
    }) satisfies RelayReader,
};
