// SPDX-License-Identifier: Apache-2.0

/** The service: wires providers, images and sinks together and holds one managed guest per machine. */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { Heartbeat } from '../guest/heartbeat.ts';
import type { Logger } from '../log.ts';
import type { Machine, Provider } from '../provider/provider.ts';
import type { RelayFactory } from '../relay/relay.ts';
import { AuditLog } from './audit.ts';
import { Bus } from './bus.ts';
import type { ServiceConfig } from './config.ts';
import type { GuestServices } from './guest-services.ts';
import { ProbeImages } from './images.ts';
import { InstanceLock } from './instance-lock.ts';
import { ManagedGuest } from './managed-guest.ts';
import { Metrics } from './metrics.ts';
import { RecentEvents } from './recent-events.ts';
import { SessionMemory } from './session-memory.ts';
import { WantedState } from './wanted.ts';

export interface ServiceParts {
  readonly config: ServiceConfig;
  readonly log: Logger;
  readonly providers: readonly Provider[];
  readonly relays: RelayFactory;
}

export class Service {
  readonly config: ServiceConfig;
  readonly log: Logger;
  readonly bus: Bus;
  readonly recent = new RecentEvents();
  readonly metrics: Metrics;
  readonly images: ProbeImages;
  readonly #providers: readonly Provider[];
  readonly #lock: InstanceLock;
  readonly #guests = new Map<string, ManagedGuest>();
  readonly #services: GuestServices;
  readonly #found = new Set<() => void>();

  /** Throws HOST where another service has the same state directory, or the directories cannot be used. */
  constructor({ config, log, providers, relays }: ServiceParts) {
    mkdirSync(config.runDirectory, { recursive: true, mode: 0o750 });
    mkdirSync(config.stateDirectory, { recursive: true, mode: 0o750 });
    this.#lock = InstanceLock.take(join(config.stateDirectory, 'lock'));
    this.config = config;
    this.log = log;
    this.bus = new Bus(log);
    this.bus.add(this.recent);
    this.metrics = new Metrics(this);
    this.#providers = providers;
    this.images = new ProbeImages(config);
    this.#services = {
      config,
      relays,
      heartbeat: new Heartbeat(config.heartbeatMs),
      log,
      images: this.images,
      wanted: WantedState.load(join(config.stateDirectory, 'wanted.json')),
      memory: new SessionMemory(join(config.stateDirectory, 'sessions'), log),
      audit: new AuditLog(join(config.stateDirectory, 'audit.ndjson'), log, (entry) =>
        this.metrics.told(entry),
      ),
      publish: (batch) => this.bus.publish(batch),
    };
  }

  async start(): Promise<void> {
    const events = {
      machineFound: (machine: Machine) => this.#machineFound(machine),
      lifecycle: (machine: Machine, event: Parameters<ManagedGuest['lifecycle']>[0]) =>
        this.#guests.get(machine.uuid)?.lifecycle(event),
    };
    await Promise.all(this.#providers.map((provider) => provider.start(events)));
  }

  /** Without `release` guests keep their probes, armed, for the next service. */
  async stop(options: { readonly release: boolean } = { release: false }): Promise<void> {
    await Promise.allSettled([...this.#guests.values()].map((guest) => guest.close(options)));
    await Promise.allSettled(this.#providers.map((provider) => provider.stop()));
    this.#lock.release();
  }

  /** Called whenever a guest is found, or found anew; returns what takes the watcher off. */
  watchGuests(found: () => void): () => void {
    this.#found.add(found);
    return () => this.#found.delete(found);
  }

  guests(): readonly ManagedGuest[] {
    return [...this.#guests.values()];
  }

  /** Why guests may be missing: places where a provider cannot look, and why. */
  problems(): ReadonlyMap<string, string> {
    return new Map(this.#providers.flatMap((provider) => [...(provider.problems?.() ?? [])]));
  }

  /** By name, UUID or the beginning of a UUID; throws NOT_FOUND with the names there are. */
  guest(name: string): ManagedGuest {
    const guests = this.guests();
    const wanted = name.toLowerCase();
    const exact = guests.filter(({ machine }) => machine.name === name || machine.uuid === wanted);
    const matches =
      exact.length > 0
        ? exact
        : guests.filter(({ machine }) => wanted.length >= 4 && machine.uuid.startsWith(wanted));
    const [found, other] = matches;
    if (found !== undefined && other === undefined) return found;
    if (other !== undefined) {
      throw new VesperError(
        'USAGE',
        `more than one guest is called ${name}: use the UUID (${matches.map(({ machine }) => machine.uuid).join(', ')})`,
      );
    }
    const names = guests.map(({ machine }) => machine.name).join(', ');
    throw new VesperError(
      'NOT_FOUND',
      `no guest ${name}: ${names === '' ? 'the service knows no guest yet' : `there are ${names}`}`,
      {
        data: { guest: name },
      },
    );
  }

  /** Wait for a guest of that name to be found. */
  async guestFound(name: string, timeLimitMs: number): Promise<ManagedGuest> {
    const present = () => this.guests().find(({ machine }) => machine.name === name);
    const now = present();
    if (now !== undefined) return now;
    await new Promise<void>((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        this.#found.delete(check);
        resolve();
      };
      const check = () => {
        if (present() !== undefined) finish();
      };
      const timer = setTimeout(finish, timeLimitMs);
      this.#found.add(check);
    });
    return this.guest(name);
  }

  #machineFound(machine: Machine): void {
    const known = this.#guests.get(machine.uuid);
    if (known !== undefined && known.machine === machine) {
      known.lifecycle({ kind: 'started' });
      return;
    }
    void known?.close({ release: false });
    const guest = new ManagedGuest(machine, this.#services);
    this.#guests.set(machine.uuid, guest);
    this.log.info(
      { guest: machine.name, uuid: machine.uuid, provider: machine.provider },
      `${machine.name}: found`,
    );
    for (const check of this.#found) check();
    guest.connect();
  }
}
