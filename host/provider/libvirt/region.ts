// SPDX-License-Identifier: Apache-2.0

/**
 * The ivshmem device of the shared region in a libvirt domain. It is of the plain kind, whose memory is a file: one with a doorbell
 * could be restored or migrated only where a service stands ready to hand its memory out, and a domain must not need us to start.
 * The guest sends its doorbell over the channel instead.
 */

import { basename, dirname, join } from 'node:path';
import { VesperError } from '../../error.ts';
import type { ProvidedRegion } from '../provider.ts';
import {
  createRegionFile,
  giveRegionFile,
  readRegionFile,
  removeRegion,
  removeRegionFiles,
  reservedBytes,
  restampRegionFile,
} from '../region-file.ts';
import type { Devices, DomainSite } from './devices.ts';
import type { DomainDevices, DomainShmem } from './domain-xml.ts';

const aliasPrefix = 'ua-vesper-region-';
/** libvirt takes no less. */
const smallestBytes = 1 << 20;

const unplugHint =
  'the guest has to run and to take part (ACPI or PCIe hot-plug in its kernel); it goes with the next reset of the guest';

export class RegionDevice {
  readonly #site: DomainSite;
  readonly #devices: Devices;
  /** Aliases that the guest was asked to let go of. */
  readonly #unwanted = new Set<string>();

  constructor(site: DomainSite, devices: Devices) {
    this.#site = site;
    this.#devices = devices;
  }

  /** Bytes of the largest region that surely finds a place; libvirt does not say what its root ports reserve. */
  async room(): Promise<number> {
    const { pciExpress } = await this.#devices.list();
    return pciExpress ? reservedBytes : Number.POSITIVE_INFINITY;
  }

  async provide(bytes: number): Promise<ProvidedRegion> {
    const { name, regionPrefix } = this.#site;
    const before = await this.#devices.list();
    for (const shmem of oursOf(before).toReversed()) {
      const region = await this.#former(shmem, before);
      if (region !== undefined) return region;
    }
    await this.#clear(before);
    await removeRegionFiles(regionPrefix);
    if (bytes < smallestBytes) {
      const message = `${name}: libvirt plugs in no region of less than 1 MiB, and ${bytes} bytes are configured: set region.size to "1 MiB" at least`;
      throw new VesperError('PROVIDER', message, { data: { guest: name, bytes } });
    }
    const address = this.#address(before);
    const region = await createRegionFile(regionPrefix, bytes);
    try {
      await giveRegionFile(region.path, await this.#devices.user(before));
      const file = basename(region.path);
      const alias = `${aliasPrefix}${file.slice(-8)}`;
      const size = `<size unit='KiB'>${bytes >> 10}</size>`;
      await this.#devices.plug(
        'the region',
        `<shmem name='${file}' role='master'><model type='ivshmem-plain'/>${size}<alias name='${alias}'/>${address}</shmem>`,
      );
    } catch (thrown) {
      await removeRegion(region.path);
      throw thrown;
    }
    return region;
  }

  /** Unplugs the region, waits until the guest has let go, and removes its file. No-op where there is none. */
  async withdraw(): Promise<void> {
    await this.#clear(await this.#devices.list());
    await this.removeFiles();
  }

  /** Of libvirt's event: the guest may have let go after the time limit. */
  async removed(alias: string): Promise<void> {
    if (!this.#unwanted.delete(alias)) return;
    const tag = alias.slice(aliasPrefix.length);
    await removeRegion(`${this.#site.regionPrefix}-${tag}`);
  }

  removeFiles(): Promise<void> {
    return removeRegionFiles(this.#site.regionPrefix);
  }

  /** A region that is plugged in, if the host can map it. */
  async #former({ alias, name }: DomainShmem, devices: DomainDevices): Promise<ProvidedRegion | undefined> {
    if (this.#unwanted.has(alias)) return undefined;
    const path = join(dirname(this.#site.regionPrefix), name);
    const region = (await readRegionFile(path)) ?? (await restampRegionFile(path));
    // A QEMU into which the domain was restored made the file itself, for everybody to read.
    if (region !== undefined) await giveRegionFile(path, await this.#devices.user(devices));
    return region;
  }

  async #clear(devices: DomainDevices): Promise<void> {
    for (const { alias } of oursOf(devices)) {
      this.#unwanted.add(alias);
      await this.#devices.unplug(alias, unplugHint);
      await this.removed(alias);
    }
  }

  /**
   * Where libvirt cannot be left to choose: of a PCI Express machine only a free root port takes a device while the guest runs, and
   * libvirt looks for none for a device that is no PCI Express one.
   */
  #address({ pciExpress, rootPorts }: DomainDevices): string {
    if (!pciExpress) return '';
    const free = rootPorts.find(({ hotplug, taken }) => hotplug && !taken);
    if (free !== undefined) return `<address type='pci' bus='${free.index}'/>`;
    const { name } = this.#site;
    const there = rootPorts.length === 0 ? 'none' : `only taken ones (${rootPorts.length})`;
    const message = `${name}: a region needs a free PCI Express root port and the machine has ${there}: add <controller type='pci' model='pcie-root-port'/> among its devices (virsh edit ${name}) before its next start`;
    throw new VesperError('PROVIDER', message, { data: { guest: name, rootPorts: rootPorts.length } });
  }
}

const oursOf = ({ shmems }: DomainDevices): readonly DomainShmem[] =>
  shmems.filter(({ alias }) => alias.startsWith(aliasPrefix));
