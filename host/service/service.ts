// SPDX-License-Identifier: Apache-2.0

/** The service: wires providers, images and sinks together and holds one managed guest per machine. */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, VesperError } from '../error.ts';
import { Heartbeat } from '../guest/heartbeat.ts';
import type { Logger } from '../log.ts';
import type { AskedProbe, LifecycleEvent, Machine, Provider } from '../provider/provider.ts';
import type { RelayFactory } from '../relay/relay.ts';
import type { IncidentFiles } from '../sink/pacemaker/incident-files.ts';
import { AuditLog } from './audit.ts';
import { Bus } from './bus.ts';
import { Cluster } from './cluster.ts';
import type { PacemakerConfig, ServiceConfig } from './config.ts';
import type { ProbeRule } from './config-file.ts';
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

export interface StopOptions {
  readonly release?: boolean;
  readonly limitMs?: number;
}

const stopLimitMs = 5_000;
/** Probes are unloaded, devices unplugged. */
const releaseLimitMs = 120_000;

export class Service {
  readonly config: ServiceConfig;
  readonly log: Logger;
  readonly bus: Bus;
  readonly recent = new RecentEvents();
  readonly metrics: Metrics;
  readonly #cluster: Cluster | undefined;
  readonly images: ProbeImages;
  readonly #providers: readonly Provider[];
  readonly #lock: InstanceLock;
  readonly #guests = new Map<string, ManagedGuest>();
  readonly #services: GuestServices;
  readonly #found = new Set<() => void>();
  readonly #problems = new Map<string, string>();

  /** Throws HOST where another service has the same state directory, or the directories cannot be used. */
  constructor({ config, log, providers, relays }: ServiceParts) {
    // Members of the API's group and the users of QEMUs have to pass; what lies in it has modes of its own.
    mkdirSync(config.runDirectory, { recursive: true, mode: 0o755 });
    mkdirSync(config.stateDirectory, { recursive: true, mode: 0o750 });
    this.#lock = InstanceLock.take(join(config.stateDirectory, 'lock'));
    this.config = config;
    this.log = log;
    this.bus = new Bus(log);
    this.bus.add(this.recent);
    this.metrics = new Metrics(this);
    const { pacemaker, stateDirectory } = config;
    this.#cluster = pacemaker && new Cluster(this, pacemaker, stateDirectory);
    if (this.#cluster !== undefined) this.metrics.add(this.#cluster.sink);
    this.#providers = providers;
    this.images = new ProbeImages(config);
    const wanted = WantedState.load(join(config.stateDirectory, 'wanted.json'));
    wanted.configure(config.probes ?? []);
    this.#services = {
      config,
      relays,
      heartbeat: new Heartbeat(config.heartbeatMs),
      log,
      images: this.images,
      wanted,
      memory: new SessionMemory(join(config.stateDirectory, 'sessions'), log),
      audit: new AuditLog(join(config.stateDirectory, 'audit.ndjson'), log, (entry) =>
        this.metrics.told(entry),
      ),
      publish: (batch) => this.bus.publish(batch),
    };
  }

  async start(): Promise<void> {
    this.#cluster?.sink.start();
    const events = {
      machineFound: (machine: Machine) => this.#machineFound(machine),
      lifecycle: (machine: Machine, event: LifecycleEvent) => {
        const guest = this.#guests.get(machine.uuid);
        if (event.kind !== 'removed') guest?.lifecycle(event);
        // Another provider, or another place, may have the machine now.
        else if (guest?.machine === machine) this.#forget(guest);
      },
      asked: (guest: Pick<Machine, 'name' | 'uuid'>, probes: readonly AskedProbe[]) => {
        this.#services.wanted.ask(guest, probes);
        void this.#guests.get(guest.uuid)?.reconfigured();
      },
    };
    await Promise.all(this.#providers.map((provider) => provider.start(events)));
  }

  /** The probes that the configuration asks for from now on. A guest that is stuck holds up no other. */
  reconfigure(probes: readonly ProbeRule[]): void {
    this.#services.wanted.configure(probes);
    for (const guest of this.guests()) void guest.reconfigured();
  }

  /** The rules for the cluster from now on, where the service began with some. */
  reconfigureCluster(pacemaker: PacemakerConfig | undefined): void {
    if (pacemaker !== undefined) this.#cluster?.configure(pacemaker.settings);
  }

  /** Why something is not as it should be, beside what providers say; undefined: it is now. */
  setProblem(where: string, problem: string | undefined): void {
    if (problem === undefined) this.#problems.delete(where);
    else this.#problems.set(where, problem);
  }

  /**
   * Without `release` guests keep their probes, armed, for the next service. Ends within `limitMs`: what has to outlive the service is
   * on disk, and a guest or monitor that is stuck is left as it is. Returns the names of such guests.
   */
  async stop({
    release = false,
    limitMs = release ? releaseLimitMs : stopLimitMs,
  }: StopOptions = {}): Promise<readonly string[]> {
    this.#cluster?.close();
    const stuck = new Set<string>();
    const leave = async (guest: ManagedGuest): Promise<void> => {
      stuck.add(guest.machine.name);
      try {
        await guest.close({ release });
      } catch (thrown) {
        this.log.warn(`${guest.machine.name}: ${messageOf(thrown)}`);
      }
      stuck.delete(guest.machine.name);
    };
    await within(limitMs, Promise.all(this.guests().map(leave)));
    await within(limitMs, Promise.allSettled(this.#providers.map((provider) => provider.stop())));
    await within(limitMs, this.#services.wanted.saved()).catch((thrown) => this.log.error(messageOf(thrown)));
    this.#lock.release();
    return [...stuck];
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
    const { problem } = this.#cluster ?? {};
    return new Map([
      ...this.#problems,
      ...(problem === undefined ? [] : ([['pacemaker', problem]] as const)),
      ...this.#providers.flatMap((provider) => [...(provider.problems?.() ?? [])]),
    ]);
  }

  /** What was told to the cluster, or was to be; undefined: the service has none. */
  get incidents(): IncidentFiles | undefined {
    return this.#cluster?.sink.incidents;
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

  /** Nobody names the guest any more. What is wanted on it stays recorded, should it come back. */
  #forget(guest: ManagedGuest): void {
    const { name, uuid } = guest.machine;
    this.#guests.delete(uuid);
    this.metrics.forget(uuid);
    void guest.close({ release: false });
    this.log.info({ guest: name, uuid }, `${name}: forgotten, as it was removed`);
  }
}

/** Resolves when the work is done or time is up. */
async function within(limitMs: number, work: Promise<unknown>): Promise<void> {
  const limit = Promise.withResolvers<void>();
  const timer = setTimeout(limit.resolve, limitMs);
  await Promise.race([work, limit.promise]).finally(() => clearTimeout(timer));
}
