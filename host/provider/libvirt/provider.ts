// SPDX-License-Identifier: Apache-2.0

/** Guests that are running domains of one libvirtd, also those that start later. */

import { basename } from 'node:path';
import { messageOf } from '../../error.ts';
import type { Logger } from '../../log.ts';
import { removeAbandonedRegions } from '../abandoned-regions.ts';
import type { LifecycleEvent, Provider, ProviderEvents } from '../provider.ts';
import { placesOf } from '../qemu/site.ts';
import { Turns } from '../turns.ts';
import { askedProbes, metadataUri } from './asked.ts';
import type { DomainEvent, EventDomain, EventKind } from './event.ts';
import { codeOf } from './failure.ts';
import { Hardware } from './hardware.ts';
import { Lifecycle, stateOf } from './lifecycle.ts';
import { type GuestName, LibvirtLink } from './link.ts';
import { LibvirtMachine, providerName } from './machine.ts';
import type { NativeConnection, NativeDomain } from './native.ts';
import { checkUri } from './uri.ts';

export interface LibvirtProviderOptions {
  /** `qemu:///system`, `qemu:///session`, or `qemu+unix:` with a socket. */
  readonly uri: string;
  /** Whether a domain is looked after at all. Default: each. */
  readonly includes?: (guest: GuestName) => boolean;
  /** For files that stand for a region. Default, and for regions always: `/dev/shm`. */
  readonly regionDirectory?: string;
  /** How long the region of a guest waits that died while no service was there. Default: a day. */
  readonly blackBoxKeptMs?: number;
  /** How long a domain is remembered that has ended and is not defined any more. Default: an hour. */
  readonly removedKeptMs?: number;
  /** For opening the connection and for each call. */
  readonly callLimitMs?: number;
  /** How long a guest may take to let go of a device. */
  readonly unplugLimitMs?: number;
  readonly log: Logger;
}

/** Where libvirt has the memory of ivshmem devices. */
const libvirtRegions = '/dev/shm';
const defaultBlackBoxKeptMs = 24 * 3_600_000;
const defaultRemovedKeptMs = 3_600_000;
/** start() waits no longer for a daemon that does not answer; its guests are found later. */
const startLimitMs = 1_000;

export class LibvirtProvider implements Provider {
  readonly name = providerName;
  readonly #options: LibvirtProviderOptions;
  readonly #link: LibvirtLink;
  /** By UUID. */
  readonly #machines = new Map<string, LibvirtMachine>();
  /** What is told of a domain is taken in its order, one thing after the other. */
  readonly #turns = new Map<string, Turns>();
  /** What is wrong with the metadata of guests, by their names. */
  readonly #badMetadata = new Map<string, string>();
  /** By UUID: what looks whether a domain that ended is still defined. */
  readonly #leaving = new Map<string, NodeJS.Timeout>();
  readonly #synced = Promise.withResolvers<void>();
  #events: ProviderEvents | undefined;
  #running: Promise<void> | undefined;

  /** Throws USAGE for a URI that cannot be served. */
  constructor(options: LibvirtProviderOptions) {
    checkUri(options.uri);
    this.#options = options;
    this.#link = new LibvirtLink({
      uri: options.uri,
      timeLimitMs: options.callLimitMs ?? 10_000,
      log: options.log,
      onOpen: (connection) => this.#opened(connection),
    });
  }

  async start(events: ProviderEvents): Promise<void> {
    this.#events = events;
    this.#removeAbandoned().catch((thrown) => this.#options.log.warn(messageOf(thrown)));
    this.#running = this.#link.run();
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, startLimitMs);
    await Promise.race([this.#synced.promise, limit.promise]);
    clearTimeout(timer);
  }

  async stop(): Promise<void> {
    this.#events = undefined;
    for (const timer of this.#leaving.values()) clearTimeout(timer);
    await this.#link.stop();
    await this.#running;
  }

  problems(): ReadonlyMap<string, string> {
    const { problem, uri } = this.#link;
    return new Map([...(problem === undefined ? [] : [[uri, problem] as const]), ...this.#badMetadata]);
  }

  absence(name: string): string {
    return `a domain of libvirt is a guest once it runs (virsh start ${name})`;
  }

  async #removeAbandoned(): Promise<void> {
    const { blackBoxKeptMs = defaultBlackBoxKeptMs, log } = this.#options;
    const removed = await removeAbandonedRegions(libvirtRegions, blackBoxKeptMs);
    for (const path of removed) log.info(`removed ${path}: the region of a guest that ended long ago`);
  }

  /** Listening comes first: what happens while the domains are listed is not missed. */
  async #opened(connection: NativeConnection): Promise<void> {
    const hear = <Kind extends EventKind>(
      kind: Kind,
      handle: (event: DomainEvent<Kind>) => unknown,
    ): Promise<unknown> =>
      connection.subscribe(kind, (event) => {
        if ('count' in event) this.#inBackground(this.#sync(connection));
        else handle(event as DomainEvent<Kind>);
      });
    await Promise.all([
      hear('lifecycle', (event) => this.#told(connection, event)),
      hear('reboot', (event) => this.#told(connection, event)),
      hear('device-removed', ({ domain, alias }) =>
        this.#machines.get(domain.uuid)?.hardware.deviceRemoved(alias),
      ),
      hear('metadata-change', ({ domain, uri }) => {
        if (uri === metadataUri) this.#metadataChanged(connection, domain);
      }),
    ]);
    await this.#sync(connection);
    this.#synced.resolve();
  }

  /** What ran before the connection was there, or changed while it was not. */
  async #sync(connection: NativeConnection): Promise<void> {
    const running = await connection.listDomains({ active: true });
    const uuids = new Set(running.map(({ uuid }) => uuid));
    for (const machine of this.#machines.values()) {
      if (!uuids.has(machine.uuid)) this.#inTurn(machine, async () => this.#missing(machine));
      if (machine.state === 'stopped') this.#expire(machine);
    }
    // One that cannot be looked at holds up no other.
    await Promise.allSettled(running.map((domain) => this.#inTurn(domain, () => this.#look(domain))));
  }

  #told(connection: NativeConnection, event: DomainEvent<'lifecycle' | 'reboot'>): void {
    const { domain } = event;
    const begins = event.kind === 'lifecycle' && (event.event === 'started' || event.event === 'resumed');
    this.#inTurn(domain, async () => {
      const machine = this.#machines.get(domain.uuid);
      if (machine === undefined || machine.state === 'stopped') {
        if (machine !== undefined && event.kind === 'lifecycle' && event.event === 'undefined')
          this.#expire(machine);
        if (begins) await this.#look(await connection.domainByUuid(domain.uuid));
        return;
      }
      if (domain.id !== null && domain.id !== machine.id) return; // of a former run
      this.#tell(machine, machine.lifecycle.next(event));
    });
  }

  /** A domain that runs: a machine that is new, or came back, or goes on. */
  async #look(domain: NativeDomain): Promise<void> {
    if (this.#options.includes?.(domain) === false) return;
    const [id, { state }] = await Promise.all([domain.id(), domain.state()]);
    const now = stateOf(state);
    if (id === null || now === 'stopped') return;
    const known = this.#machines.get(domain.uuid);
    if (known !== undefined && known.id === id && known.name === domain.name && known.state !== 'stopped') {
      this.#tell(known, known.lifecycle.became(now));
      return;
    }
    await this.#readMetadata(domain);
    const plugged = /<alias name='ua-vesper-/.test(await domain.xml());
    const machine = this.#met(domain, id, new Lifecycle(now), plugged);
    this.#events?.machineFound(machine);
    if (now === 'paused') this.#events?.lifecycle(machine, { kind: 'paused' });
  }

  #met({ name, uuid }: NativeDomain, id: number, lifecycle: Lifecycle, plugged: boolean): LibvirtMachine {
    const { uri, regionDirectory = libvirtRegions, unplugLimitMs = 10_000, log } = this.#options;
    const { regionPrefix, shadowPrefix } = placesOf({ name, uuid }, uri, {
      run: '',
      region: regionDirectory,
    });
    const hardware = new Hardware(
      {
        name,
        uuid,
        link: this.#link,
        regionPrefix: `${libvirtRegions}/${basename(regionPrefix)}`,
        shadowPrefix,
        unplugLimitMs,
        log,
      },
      plugged,
    );
    const known = this.#machines.get(uuid);
    if (known?.name === name) {
      known.came(id, hardware, lifecycle);
      return known;
    }
    const machine = new LibvirtMachine({ name, uuid }, id, hardware, lifecycle);
    this.#machines.set(uuid, machine);
    return machine;
  }

  #missing(machine: LibvirtMachine): void {
    this.#tell(machine, machine.lifecycle.gone('it ended while libvirt could not be asked'));
  }

  #tell(machine: LibvirtMachine, event: LifecycleEvent | undefined): void {
    if (event === undefined) return;
    if (event.kind === 'stopped') machine.hardware.machineGone();
    this.#events?.lifecycle(machine, event);
    if (event.kind === 'stopped') this.#expire(machine);
  }

  /** A domain that ended, and that libvirt then does not know any more, is forgotten. */
  #expire(machine: LibvirtMachine): void {
    const { uuid } = machine;
    clearTimeout(this.#leaving.get(uuid));
    const forget = async (): Promise<void> => {
      this.#leaving.delete(uuid);
      if (machine.state !== 'stopped' || (await this.#link.knows(machine))) return;
      this.#machines.delete(uuid);
      this.#turns.delete(uuid);
      this.#badMetadata.delete(machine.name);
      this.#events?.lifecycle(machine, { kind: 'removed' });
    };
    const timer = setTimeout(
      () => this.#inTurn(machine, forget),
      this.#options.removedKeptMs ?? defaultRemovedKeptMs,
    );
    this.#leaving.set(uuid, timer);
  }

  #metadataChanged(connection: NativeConnection, { uuid }: EventDomain): void {
    const machine = this.#machines.get(uuid);
    if (machine === undefined) return;
    this.#inTurn(machine, async () => this.#readMetadata(await connection.domainByUuid(uuid)));
  }

  /** What a domain asks for; where that cannot be understood, what it asked for before stays. */
  async #readMetadata(domain: NativeDomain): Promise<void> {
    const { name, uuid } = domain;
    try {
      const xml = await domain.metadata({ type: 'element', uri: metadataUri, live: true }).catch((thrown) => {
        if (codeOf(thrown) === 'VIR_ERR_NO_DOMAIN_METADATA') return '<probes/>';
        throw thrown;
      });
      this.#events?.asked?.({ name, uuid }, askedProbes(name, xml));
      this.#badMetadata.delete(name);
    } catch (thrown) {
      const problem = messageOf(thrown);
      if (this.#badMetadata.get(name) !== problem) this.#options.log.warn(problem);
      this.#badMetadata.set(name, problem);
    }
  }

  #inTurn({ uuid }: Pick<GuestName, 'uuid'>, work: () => Promise<void>): Promise<void> {
    const turns = this.#turns.get(uuid) ?? new Turns();
    this.#turns.set(uuid, turns);
    const done = turns.take(work);
    this.#inBackground(done);
    return done;
  }

  /** A domain that ended in the middle of being looked at is told of by its own event. */
  #inBackground(work: Promise<void>): void {
    work.catch((thrown) => {
      if (['VIR_ERR_NO_DOMAIN', 'CLOSED'].includes(codeOf(thrown) ?? '')) return;
      this.#options.log.warn(`${this.#options.uri}: ${messageOf(thrown)}`);
    });
  }
}
