// SPDX-License-Identifier: Apache-2.0

/** A real libvirtd with real domains and a service in this process that has them from it. */

import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { guestView } from '../../host/api/guest-view.ts';
import type { GuestView, ProbeResult } from '../../host/api/view.ts';
import type { VesperEvent } from '../../host/guest/event.ts';
import type { RelayBackend } from '../../host/guest/relay-backend.ts';
import { silentLog } from '../../host/log.ts';
import { loadLibvirtAddon } from '../../host/provider/libvirt/addon.ts';
import type { NativeConnection, NativeDomain } from '../../host/provider/libvirt/native.ts';
import { LibvirtProvider, type LibvirtProviderOptions } from '../../host/provider/libvirt/provider.ts';
import type { LifecycleEvent, Provider } from '../../host/provider/provider.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import type { ProbeRule } from '../../host/service/config-file.ts';
import type { ManagedGuest } from '../../host/service/managed-guest.ts';
import { Service } from '../../host/service/service.ts';
import { expectNoComplaints } from './kernel-log.ts';
import { LibvirtGuest, type LibvirtGuestOptions } from './libvirt-guest.ts';
import { Libvirtd } from './libvirtd.ts';
import { repository } from './rig.ts';

const patienceMs = 90_000;
const poll = { timeout: patienceMs, interval: 20 };

export interface LibvirtRigOptions extends Partial<LibvirtProviderOptions> {
  readonly probes?: readonly ProbeRule[];
  readonly relayBackend?: RelayBackend;
}

export interface RigDomain {
  readonly guest: LibvirtGuest;
  readonly domain: NativeDomain;
}

export class LibvirtRig implements AsyncDisposable {
  readonly daemon: Libvirtd;
  /** Of the test, as virsh would have one. */
  connection: NativeConnection;
  readonly events: VesperEvent[] = [];
  /** What the provider told, `name kind`. */
  readonly told: string[] = [];
  service: Service;
  #hub: RelayHub;
  #options: LibvirtRigOptions;
  readonly #domains: RigDomain[] = [];

  private constructor(daemon: Libvirtd, connection: NativeConnection, options: LibvirtRigOptions) {
    this.daemon = daemon;
    this.connection = connection;
    this.#options = options;
    this.#hub = new RelayHub();
    this.service = this.#newService();
  }

  /** The daemon runs, the service is not started yet. */
  static async create(options: LibvirtRigOptions = {}): Promise<LibvirtRig> {
    const daemon = await Libvirtd.start();
    try {
      const connection = await loadLibvirtAddon().Connection.open(daemon.uri);
      return new LibvirtRig(daemon, connection, options);
    } catch (thrown) {
      await daemon.close();
      throw thrown;
    }
  }

  /** A domain with the frontend that is not started. */
  async define(options: LibvirtGuestOptions = {}): Promise<RigDomain> {
    const guest = await LibvirtGuest.create(this.daemon, { frontend: true, ...options });
    const domain = await this.connection.defineDomain(guest.xml);
    const one = { guest, domain };
    this.#domains.push(one);
    return one;
  }

  /** The same, booted. */
  async boot(options: LibvirtGuestOptions = {}): Promise<RigDomain> {
    const one = await this.define(options);
    await one.domain.start();
    await one.guest.waitReady();
    return one;
  }

  /** Ends a domain for good; its guest stays known to the service, as stopped. */
  async end({ domain, guest }: RigDomain): Promise<void> {
    await domain.destroy().catch(() => undefined); // a test may have ended it
    await this.until(() =>
      this.service.guests().every(({ machine, state }) => machine.name !== guest.name || state === 'stopped'),
    );
    await domain.undefine({ managedSave: true });
  }

  guest(name = 'guest'): ManagedGuest {
    return this.service.guest(name);
  }

  view(name = 'guest'): GuestView {
    return guestView(this.guest(name));
  }

  /** Attach; throws where one was refused. */
  async attach(
    probes: readonly string[],
    parameters: readonly string[] = [],
    name = 'guest',
  ): Promise<readonly ProbeResult[]> {
    const guest = await this.service.guestFound(name, patienceMs);
    const results = await guest.attach(probes, parameters, { by: 'test', selfTest: false, force: false });
    const refused = results.find(({ ok }) => !ok);
    if (refused !== undefined) throw new Error(refused.message);
    return results;
  }

  /** A process of that name dies in the guest, and the event of it arrives. */
  async delivers({ guest }: RigDomain, comm: string): Promise<void> {
    await guest.shell.run(`actor --name ${comm} segv`);
    await this.event(({ event, fields }) => event === 'died' && fields['comm'] === comm);
  }

  async event(matches: (event: VesperEvent) => boolean): Promise<VesperEvent> {
    await expect.poll(() => this.events.some(matches), poll).toBe(true);
    return this.events.find(matches) as VesperEvent;
  }

  async until(holds: () => boolean | Promise<boolean>, name = 'guest'): Promise<void> {
    const seen = () =>
      JSON.stringify([this.service.guests().map(guestView), [...this.service.problems()], this.told]);
    await expect
      .poll(holds, poll)
      .toBe(true)
      .catch((thrown) => {
        throw new Error(`${thrown}: ${name}: ${seen()}`);
      });
  }

  active(name = 'guest'): Promise<void> {
    return this.until(
      () => this.service.guests().some(({ machine, state }) => machine.name === name && state === 'active'),
      name,
    );
  }

  /** Ends the service as `vesper serve` would, and starts another with the same state. */
  async restartService(options: Partial<LibvirtRigOptions> = {}): Promise<void> {
    await this.service.stop();
    this.#hub.close();
    this.#options = { ...this.#options, ...options };
    this.#hub = new RelayHub();
    this.service = this.#newService();
    await this.service.start();
  }

  /** Another connection of the test, after a restart of the daemon. */
  async reconnect(): Promise<NativeConnection> {
    await this.connection.close().catch(() => undefined);
    return loadLibvirtAddon().Connection.open(this.daemon.uri);
  }

  async close(): Promise<void> {
    await this.service.stop();
    this.#hub.close();
    for (const { guest } of this.#domains) guest.close();
    await this.connection.close().catch(() => undefined);
    await this.daemon.close();
    for (const file of this.regionFiles()) rmSync(join('/dev/shm', file));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Region files of the rig's domains that are there now. */
  regionFiles(): readonly string[] {
    return readdirSync('/dev/shm').filter((file) =>
      this.#domains.some(({ guest }) => file.startsWith(`vesper-${guest.name}`)),
    );
  }

  /** Nothing was lost, and no guest's kernel complained. */
  unharmed(): void {
    for (const { guest } of this.#domains) expectNoComplaints(guest.console.text);
  }

  #newService(): Service {
    const { probes, relayBackend, ...provider } = this.#options;
    const log = silentLog();
    const libvirt = new LibvirtProvider({ uri: this.daemon.uri, log, ...provider });
    const service = new Service({
      log,
      relays: this.#hub,
      providers: [this.#overheard(libvirt)],
      config: {
        runDirectory: join(this.daemon.directory, 'vesper/run'),
        stateDirectory: join(this.daemon.directory, 'vesper/state'),
        catalogueRoots: [join(repository, 'build')],
        regionBytes: undefined,
        relayBackend,
        heartbeatMs: 1_000,
        probes: probes ?? [],
      },
    });
    service.bus.add({
      name: 'test',
      deliver: (batch) => {
        for (let row = 0; row < batch.length; row += 1) this.events.push(batch.toEvent(row));
      },
    });
    return service;
  }

  #overheard(provider: LibvirtProvider): Provider {
    const note = ({ name }: { readonly name: string }, event: LifecycleEvent | { readonly kind: 'found' }) =>
      this.told.push(`${name} ${event.kind}${event.kind === 'stopped' ? `: ${event.reason}` : ''}`);
    return {
      name: provider.name,
      problems: () => provider.problems(),
      absence: (name) => provider.absence(name),
      stop: () => provider.stop(),
      start: (events) =>
        provider.start({
          asked: (guest, probes) => events.asked?.(guest, probes),
          machineFound: (machine) => {
            note(machine, { kind: 'found' });
            events.machineFound(machine);
          },
          lifecycle: (machine, event) => {
            note(machine, event);
            events.lifecycle(machine, event);
          },
        }),
    };
  }
}
