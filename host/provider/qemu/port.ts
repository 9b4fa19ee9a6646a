// SPDX-License-Identifier: Apache-2.0

/** The virtio-serial port of the control channel: found, plugged into a running QEMU, and unplugged. */

import { randomBytes } from 'node:crypto';
import { mkdir, rm, rmdir } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { z } from 'zod';
import { VesperError } from '../../error.ts';
import { portName } from '../../wire/message.ts';
import { isOnOwnController, isOwnController, ownSerialBus, withdrawController } from './controller.ts';
import {
  busesOf,
  chardevAddress,
  type Device,
  devices,
  property,
  removeBackend,
  textProperty,
  unplug,
} from './qom.ts';
import type { Site } from './site.ts';

/** Stable: by these a service that was restarted recognises what its predecessor plugged. */
const chardevId = 'vesper-channel';
const portId = 'vesper-port';
const ourPath = `/machine/peripheral/${portId}`;

const controllerTypes = new Set([
  'virtio-serial-pci',
  'virtio-serial-pci-transitional',
  'virtio-serial-pci-non-transitional',
  'virtio-serial-device',
  'virtio-serial-ccw',
]);

const count = z.number();

/** A port as one finds it: where to connect, and what tells that it was unplugged. */
export interface ProvidedPort {
  readonly socketPath: string;
  /** Aborts, with the reason as a text. QEMU keeps the socket open when the port behind it goes. */
  readonly unplugged: AbortSignal;
}

/** Why there is none and none can be plugged, for people: `has no virtio-serial controller`, `nor a free …`. */
export interface NoPort {
  readonly lacks: string;
}

export class ChannelPort {
  readonly #site: Site;
  /** QOM path of the port that was provided. */
  #devicePath: string | undefined;
  #unplugged = new AbortController();
  /** Of a socket that we had QEMU make. */
  #socketPath: string | undefined;

  constructor(site: Site) {
    this.#site = site;
  }

  /** On a controller of the machine's owner; plugs the port where there is none. */
  async provide(): Promise<ProvidedPort | NoPort> {
    const all = await devices(this.#site.qmp);
    const port = await this.#find(all);
    if (port !== undefined) {
      if (await this.#isOnOwnController(port)) return { lacks: 'has no other port than one of our own' };
      return this.#provided(port.path, await this.#socketOf(port));
    }
    const bus = await this.#freeBus(all);
    return typeof bus === 'string' ? this.#provided(ourPath, await this.#plug(bus)) : bus;
  }

  /** On a controller of VESPER's own, which is plugged in where it is missing. */
  async provideOnOwnController(): Promise<ProvidedPort | NoPort> {
    const port = await this.#find(await devices(this.#site.qmp));
    if (port !== undefined) return this.#provided(port.path, await this.#socketOf(port));
    const bus = await ownSerialBus(this.#site);
    return 'lacks' in bus ? bus : this.#provided(ourPath, await this.#plug(bus.name));
  }

  #provided(devicePath: string, socketPath: string): ProvidedPort {
    this.#devicePath = devicePath;
    return { socketPath, unplugged: this.#unplugged.signal };
  }

  deviceDeleted(devicePath: unknown): void {
    if (this.#devicePath === undefined || devicePath !== this.#devicePath) return;
    this.#devicePath = undefined;
    const { name } = this.#site;
    this.#unplugged.abort(`the port ${portName} of ${name} was unplugged`);
    this.#unplugged = new AbortController();
  }

  /** Unplugs port and controller if they were plugged by a service, and removes the socket. */
  async withdraw(): Promise<void> {
    const { qmp, unplugLimitMs } = this.#site;
    const ours = (await devices(qmp)).find(({ path }) => path === ourPath);
    if (ours !== undefined) {
      this.#socketPath = await this.#socketOf(ours);
      await unplug(qmp, portId, unplugLimitMs, 'try again');
    }
    await removeBackend(qmp, 'chardev-remove', chardevId);
    await this.removeFiles();
    await withdrawController(this.#site);
  }

  /** What a QEMU that was killed leaves. */
  async removeFiles(): Promise<void> {
    if (this.#socketPath === undefined) return;
    await rm(this.#socketPath, { force: true });
    // Others may have put something there; an empty folder of ours goes.
    if (dirname(this.#socketPath) === this.#site.folder)
      await rmdir(this.#site.folder).catch(() => undefined);
    this.#socketPath = undefined;
  }

  async #find(all: readonly Device[]): Promise<Device | undefined> {
    const ports = all.filter(({ type }) => type === 'virtserialport');
    const names = await Promise.all(ports.map(({ path }) => textProperty(this.#site.qmp, path, 'name')));
    return ports[names.indexOf(portName)];
  }

  async #isOnOwnController({ path }: Device): Promise<boolean> {
    return isOnOwnController(await textProperty(this.#site.qmp, path, 'parent_bus'));
  }

  async #socketOf(port: Device): Promise<string> {
    const { qmp, name } = this.#site;
    const label = await textProperty(qmp, port.path, 'chardev');
    const address = await chardevAddress(qmp, label);
    const path = /^(?:disconnected:)?unix:(.+?),server(?:=on)?$/.exec(address ?? '')?.[1];
    if (path === undefined || !isAbsolute(path)) {
      const message = `${name}: port ${portName} is there, but its character device is "${address ?? label}": it has to be a listening unix socket with an absolute path (-chardev socket,id=…,path=/…,server=on,wait=off)`;
      throw new VesperError('PROVIDER', message, { data: { guest: name, chardev: address } });
    }
    if (label === chardevId) this.#socketPath = path;
    return path;
  }

  async #plug(bus: string): Promise<string> {
    const { qmp, folder, owner } = this.#site;
    // Half of a port, from a service that ended between the two commands.
    await removeBackend(qmp, 'chardev-remove', chardevId);
    await mkdir(dirname(folder), { recursive: true, mode: 0o711 });
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await owner.give(folder);
    const path = join(folder, `port-${randomBytes(4).toString('hex')}`);
    this.#socketPath = path;
    try {
      const addr = { type: 'unix', data: { path } };
      const backend = { type: 'socket', data: { addr, server: true, wait: false } };
      await qmp.execute('chardev-add', { id: chardevId, backend });
      const port = { driver: 'virtserialport', id: portId, name: portName, chardev: chardevId, bus };
      await qmp.execute('device_add', port);
    } catch (error) {
      await removeBackend(qmp, 'chardev-remove', chardevId).catch(() => undefined); // the first error tells more
      await this.removeFiles();
      throw error;
    }
    return path;
  }

  /** A virtio-serial bus with a port left; QEMU chooses the number. */
  async #freeBus(all: readonly Device[]): Promise<string | NoPort> {
    const { qmp } = this.#site;
    const controllers = all.filter((device) => controllerTypes.has(device.type) && !isOwnController(device));
    for (const { path, type } of controllers) {
      const device = type === 'virtio-serial-device' ? path : `${path}/virtio-backend`;
      const [bus] = await busesOf(qmp, device, 'virtio-serial-bus');
      if (bus === undefined) continue;
      const most = await property(qmp, device, 'max_ports', count);
      const used = await this.#portsOn(bus.path, all);
      // Port 0 is kept for a console.
      if (used.filter((nr) => nr !== 0).length < most - 1) return bus.name;
    }
    return controllers.length === 0
      ? { lacks: 'has no virtio-serial controller' }
      : { lacks: 'has no free port on its virtio-serial controllers' };
  }

  async #portsOn(busPath: string, all: readonly Device[]): Promise<number[]> {
    const { qmp } = this.#site;
    const ports = all.filter(({ type }) => type === 'virtserialport' || type === 'virtconsole');
    const placed = await Promise.all(
      ports.map(async ({ path }) => ({
        bus: await textProperty(qmp, path, 'parent_bus'),
        nr: await property(qmp, path, 'nr', count),
      })),
    );
    return placed.filter(({ bus }) => bus === busPath).map(({ nr }) => nr);
  }
}
