// SPDX-License-Identifier: Apache-2.0

/** The ivshmem device of the shared region: plugged into a running QEMU and unplugged. */

import { rm } from 'node:fs/promises';
import { z } from 'zod';
import { VesperError } from '../../error.ts';
import type { ProvidedRegion } from '../provider.ts';
import {
  createRegionFile,
  readRegionFile,
  removeRegionFiles,
  reserveFor,
  restampRegionFile,
} from '../region-file.ts';
import type { QmpClient } from './qmp.ts';
import {
  busesOf,
  children,
  type Device,
  devices,
  objectIds,
  occupants,
  property,
  removeBackend,
  textProperty,
  unplug,
} from './qom.ts';
import type { Site } from './site.ts';

/** Stable: by these a service that was restarted recognises what its predecessor plugged. */
const memoryPrefix = 'vesper-region';
const deviceId = 'vesper-ivshmem';
const devicePath = `/machine/peripheral/${deviceId}`;

/**
 * QEMU names the memory by its slot and this id, frees it some time after the device has gone, and aborts where a name comes
 * twice: each region has an id of its own.
 */
const memoryIdOf = (path: string): string => `${memoryPrefix}${path.slice(path.lastIndexOf('-'))}`;

/** What firmware and kernel reserve behind a root port when nothing is said. */
const reservedBytes = 2 << 20;
const portTypes = new Set(['pcie-root-port', 'ioh3420', 'xio3130-downstream']);

const rootPortAdvice =
  "start it with a spare one (\"-device pcie-root-port,id=spare,chassis=40\"), or in libvirt with <controller type='pci' model='pcie-root-port'/>";

export class RegionDevice {
  readonly #site: Site;
  #file: string | undefined;
  /** Somebody asked to take it away, and the guest has not let go yet. */
  #unwanted = false;

  constructor(site: Site) {
    this.#site = site;
  }

  async provide(bytes: number): Promise<ProvidedRegion> {
    const left = await this.#former();
    if (left !== undefined && !this.#unwanted) return left;
    await this.#clear();
    const { regionPrefix, owner, qmp } = this.#site;
    await removeRegionFiles(regionPrefix);
    const region = await createRegionFile(regionPrefix, bytes);
    this.#file = region.path;
    const memoryId = memoryIdOf(region.path);
    try {
      await owner.give(region.path);
      const bus = await this.#freeBus(bytes);
      const memory = { 'mem-path': region.path, size: bytes, share: true };
      await qmp.execute('object-add', { 'qom-type': 'memory-backend-file', id: memoryId, ...memory });
      const device = { driver: 'ivshmem-plain', id: deviceId, memdev: memoryId, master: true };
      await qmp.execute('device_add', bus === undefined ? device : { ...device, bus });
    } catch (error) {
      await removeBackend(qmp, 'object-del', memoryId).catch(() => undefined); // the first error tells more
      await this.removeFiles();
      throw error;
    }
    this.#unwanted = false;
    return region;
  }

  /** Unplugs the region, waits until the guest has let go, and removes its file. No-op where there is none. */
  async withdraw(): Promise<void> {
    await this.#former();
    this.#unwanted = true;
    await this.#clear();
    await this.removeFiles();
    this.#unwanted = false;
  }

  /** The guest let go after the time limit. */
  async deviceDeleted(id: unknown): Promise<void> {
    if (id !== deviceId || !this.#unwanted) return;
    await this.#clearMemory();
    await this.removeFiles();
    this.#unwanted = false;
  }

  /** QEMU is gone. The file stays for the black box, unless nobody wants it any more. */
  async machineGone(): Promise<void> {
    if (this.#unwanted) await this.removeFiles();
  }

  async removeFiles(): Promise<void> {
    if (this.#file !== undefined) await rm(this.#file, { force: true });
    this.#file = undefined;
  }

  /** The region that is plugged, if the host can map it. */
  async #former(): Promise<ProvidedRegion | undefined> {
    const { qmp } = this.#site;
    const plugged = (await devices(qmp)).some(({ path }) => path === devicePath);
    const memory = plugged
      ? await textProperty(qmp, devicePath, 'memdev')
      : (await memoryIds(qmp)).map((id) => `/objects/${id}`)[0];
    if (memory === undefined) return undefined;
    const path = await textProperty(qmp, memory, 'mem-path');
    this.#file = path;
    if (!plugged) return undefined;
    return (await readRegionFile(path)) ?? restampRegionFile(path);
  }

  /** Takes away the device and its memory, or what there is of them. */
  async #clear(): Promise<void> {
    const { qmp, unplugLimitMs } = this.#site;
    if ((await devices(qmp)).some(({ path }) => path === devicePath)) {
      const hint =
        'the guest has to run and to take part (ACPI or PCIe hot-plug in its kernel); it goes with the next reset of the guest';
      await unplug(qmp, deviceId, unplugLimitMs, hint);
    }
    await this.#clearMemory();
  }

  /** Of the device that is gone, and what services that ended in the middle of it left. */
  async #clearMemory(): Promise<void> {
    const { qmp } = this.#site;
    for (const id of await memoryIds(qmp)) await removeBackend(qmp, 'object-del', id);
  }

  /**
   * Bus for the device. i440fx plugs into its root bus, QEMU finds the slot; of a PCI Express machine only a free root
   * port takes a device while the guest runs.
   */
  async #freeBus(bytes: number): Promise<string | undefined> {
    const { qmp, name, log } = this.#site;
    const hosts = await children(qmp, '/machine');
    if (hosts.some(({ type }) => type === 'i440FX-pcihost')) return undefined;
    const ports = (await devices(qmp)).filter(({ type }) => portTypes.has(type));
    const free = (await Promise.all(ports.map((port) => this.#freePort(port)))).filter(
      (port) => port !== undefined,
    );
    const roomy = free.find(({ reserved }) => reserved >= reserveFor(bytes));
    const most = free.toSorted((a, b) => b.reserved - a.reserved)[0];
    const port = bytes > reservedBytes ? (roomy ?? most) : free[0];
    if (port === undefined) {
      const message = `${name}: a region needs a free PCI Express root port and the machine has ${ports.length === 0 ? 'none' : `only taken ones (${ports.length})`}: ${rootPortAdvice}`;
      throw new VesperError('PROVIDER', message, { data: { guest: name, rootPorts: ports.length } });
    }
    if (bytes > reservedBytes && port !== roomy) {
      log.warn(
        `${name}: a region of ${bytes} bytes behind ${port.bus} is plugged without an error, but a guest can seldom place more than ${reservedBytes}: give the root port pref64-reserve=${reserveFor(bytes)}, or use a smaller region`,
      );
    }
    return port.bus;
  }

  async #freePort({ path }: Device): Promise<{ bus: string; reserved: number } | undefined> {
    const { qmp } = this.#site;
    const [bus] = await busesOf(qmp, path, 'PCIE');
    if (bus === undefined || (await occupants(qmp, bus.path)) > 0) return undefined;
    if (!(await property(qmp, path, 'hotplug', z.boolean()).catch(() => true))) return undefined;
    const reserve = await property(qmp, path, 'pref64-reserve', z.number()).catch(() => -1);
    // "Not given" is all ones.
    return { bus: bus.name, reserved: reserve > Number.MAX_SAFE_INTEGER ? 0 : reserve };
  }
}

async function memoryIds(qmp: QmpClient): Promise<string[]> {
  return (await objectIds(qmp)).filter((id) => id.startsWith(memoryPrefix));
}
