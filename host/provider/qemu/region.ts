// SPDX-License-Identifier: Apache-2.0

/**
 * The ivshmem device of the shared region: plugged into a running QEMU and unplugged. It is of the kind with a doorbell: QEMU gets
 * memory and doorbell as an ivshmem server hands them out, and from then on needs nobody.
 */

import { rm } from 'node:fs/promises';
import { messageOf, VesperError } from '../../error.ts';
import { loadRelayAddon } from '../../relay/native.ts';
import type { ProvidedDoorbell, ProvidedRegion } from '../provider.ts';
import {
  createRegionFile,
  doorbellOf,
  readRegionFile,
  regionOf,
  removeRegion,
  removeRegionFiles,
  reservedBytes,
  reserveFor,
  restampRegionFile,
  serverOf,
} from '../region-file.ts';
import { plugsIntoRootBus, rootPorts } from './pci.ts';
import { chardevAddress, devices, removeBackend, unplug } from './qom.ts';
import type { Site } from './site.ts';

/** Stable: by these a service that was restarted recognises what its predecessor plugged. */
const chardevId = 'vesper-region';
const deviceId = 'vesper-ivshmem';
const devicePath = `/machine/peripheral/${deviceId}`;

/** The host's number among the peers of the region; the guest has 0. */
const hostPeer = 1;
const handOverLimitMs = 5_000;

const rootPortAdvice =
  "start it with a spare one (\"-device pcie-root-port,id=spare,chassis=40\"), or in libvirt with <controller type='pci' model='pcie-root-port'/>";

/** As QEMU tells of a client's socket; after the hand-over it is no longer connected. */
const unixPath = /^(?:disconnected:)?unix:(.+?)(?:,|$)/;

/** Vector 0 of the host. */
const doorbellAt = (path: string): ProvidedDoorbell => ({ path, value: hostPeer << 16 });

export class RegionDevice {
  readonly #site: Site;
  #file: string | undefined;
  /** Somebody asked to take it away, and the guest has not let go yet. */
  #unwanted = false;

  constructor(site: Site) {
    this.#site = site;
  }

  /** Bytes of the largest region that surely finds a place. */
  async room(): Promise<number> {
    const { qmp } = this.#site;
    if (await plugsIntoRootBus(qmp)) return Number.POSITIVE_INFINITY;
    const { free } = await rootPorts(qmp);
    const most = Math.max(0, ...free.map(({ reserved }) => reserved));
    let bytes = reservedBytes;
    while (reserveFor(2 * bytes) <= most) bytes *= 2;
    return bytes;
  }

  async provide(bytes: number): Promise<ProvidedRegion> {
    const left = await this.#former();
    if (left !== undefined && !this.#unwanted) return left;
    await this.#clear();
    const { regionPrefix, qmp } = this.#site;
    await removeRegionFiles(regionPrefix);
    const region = await createRegionFile(regionPrefix, bytes);
    this.#file = region.path;
    let doorbell: ProvidedDoorbell;
    try {
      doorbell = await this.#plug(region);
    } catch (error) {
      await removeBackend(qmp, 'chardev-remove', chardevId).catch(() => undefined); // the first error tells more
      await this.removeFiles();
      throw error;
    }
    this.#unwanted = false;
    return { ...region, doorbell };
  }

  async #plug(region: ProvidedRegion): Promise<ProvidedDoorbell> {
    const { owner, qmp } = this.#site;
    const addon = loadRelayAddon();
    const bus = await this.#freeBus(region.bytes);
    const socketPath = serverOf(region.path);
    const doorbell = doorbellOf(region.path);
    await rm(socketPath, { force: true });
    addon.makeDoorbell(doorbell);
    const server = new addon.RegionServer(socketPath, region.path, doorbell);
    try {
      await owner.give(socketPath);
      const addr = { type: 'unix', data: { path: socketPath } };
      const backend = { type: 'socket', data: { addr, server: false } };
      await qmp.execute('chardev-add', { id: chardevId, backend });
      // All that QEMU will ask for lies in its socket before it asks: it waits for it with the guest stopped.
      await server.serve(hostPeer, handOverLimitMs);
      // A pipe is no eventfd: KVM could not write to it.
      const device = {
        driver: 'ivshmem-doorbell',
        id: deviceId,
        chardev: chardevId,
        master: true,
        ioeventfd: false,
      };
      await qmp.execute('device_add', bus === undefined ? device : { ...device, bus });
    } catch (thrown) {
      if (thrown instanceof VesperError) throw thrown;
      const message = `${this.#site.name}: the region cannot be handed to QEMU: ${messageOf(thrown)}`;
      throw new VesperError('PROVIDER', message, { cause: thrown, data: { guest: this.#site.name } });
    } finally {
      server.close();
    }
    return doorbellAt(doorbell);
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
    await removeBackend(this.#site.qmp, 'chardev-remove', chardevId);
    await this.removeFiles();
    this.#unwanted = false;
  }

  /** QEMU is gone. The file stays for the black box, unless nobody wants it any more. */
  async machineGone(): Promise<void> {
    if (this.#unwanted) await this.removeFiles();
  }

  async removeFiles(): Promise<void> {
    if (this.#file !== undefined) await removeRegion(this.#file);
    this.#file = undefined;
  }

  /** The region that is plugged, if the host can map it. */
  async #former(): Promise<ProvidedRegion | undefined> {
    const { qmp } = this.#site;
    const [all, address] = await Promise.all([devices(qmp), chardevAddress(qmp, chardevId)]);
    const socketPath = address === undefined ? undefined : unixPath.exec(address)?.[1];
    if (socketPath === undefined) return undefined;
    const path = regionOf(socketPath);
    this.#file = path;
    if (!all.some(({ path }) => path === devicePath)) return undefined;
    const region = (await readRegionFile(path)) ?? (await restampRegionFile(path));
    return region && { ...region, doorbell: doorbellAt(doorbellOf(path)) };
  }

  /** Takes away the device and its memory, or what there is of them. */
  async #clear(): Promise<void> {
    const { qmp, unplugLimitMs } = this.#site;
    if ((await devices(qmp)).some(({ path }) => path === devicePath)) {
      const hint =
        'the guest has to run and to take part (ACPI or PCIe hot-plug in its kernel); it goes with the next reset of the guest';
      await unplug(qmp, deviceId, unplugLimitMs, hint);
    }
    await removeBackend(qmp, 'chardev-remove', chardevId);
  }

  /** Bus for the device; undefined: QEMU finds it. */
  async #freeBus(bytes: number): Promise<string | undefined> {
    const { qmp, name, log } = this.#site;
    if (await plugsIntoRootBus(qmp)) return undefined;
    const { free, total } = await rootPorts(qmp);
    const roomy = free.find(({ reserved }) => reserved >= reserveFor(bytes));
    const most = free.toSorted((a, b) => b.reserved - a.reserved)[0];
    const port = bytes > reservedBytes ? (roomy ?? most) : free[0];
    if (port === undefined) {
      const message = `${name}: a region needs a free PCI Express root port and the machine has ${total === 0 ? 'none' : `only taken ones (${total})`}: ${rootPortAdvice}`;
      throw new VesperError('PROVIDER', message, { data: { guest: name, rootPorts: total } });
    }
    if (bytes > reservedBytes && port !== roomy) {
      log.warn(
        `${name}: a region of ${bytes} bytes behind ${port.bus} is plugged without an error, but a guest can seldom place more than ${reservedBytes}: give the root port pref64-reserve=${reserveFor(bytes)}, or use a smaller region`,
      );
    }
    return port.bus;
  }
}
