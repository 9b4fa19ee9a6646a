// SPDX-License-Identifier: Apache-2.0

/** What VESPER has plugged into one run of one QEMU; a QEMU that comes back is a new one. */

import { messageOf, VesperError } from '../../error.ts';
import type { ProvidedRegion, SharedRam } from '../provider.ts';
import { keptRegionFile, removeRegionFiles } from '../region-file.ts';
import { Turns } from '../turns.ts';
import { ChannelPort, type ProvidedPort } from './port.ts';
import type { QmpClient } from './qmp.ts';
import { openSharedRam } from './ram.ts';
import { RegionDevice } from './region.ts';
import type { Site } from './site.ts';
import { findVsock, type VsockRoute } from './vsock.ts';

export class Hardware {
  readonly qmp: QmpClient;
  readonly #site: Site;
  readonly #port: ChannelPort;
  readonly #region: RegionDevice;
  readonly #portTurn = new Turns();
  readonly #regionTurn = new Turns();

  constructor(site: Site) {
    this.#site = site;
    this.qmp = site.qmp;
    this.#port = new ChannelPort(site);
    this.#region = new RegionDevice(site);
  }

  /**
   * Where the frontend can be spoken to: its port, plugged where the machine has a controller; vsock; a controller of our own. Throws
   * PROVIDER.
   */
  provideRoute(): Promise<ProvidedPort | VsockRoute> {
    return this.#portTurn.take(async () => {
      const port = await this.#port.provide();
      if (!('lacks' in port)) return port;
      const vsock = await findVsock(this.#site);
      if (!('lacks' in vsock)) return vsock;
      const own = await this.#port.provideOnOwnController();
      if (!('lacks' in own)) return own;
      const { name } = this.#site;
      const message = `${name}: the machine ${port.lacks}, ${own.lacks}, ${vsock.lacks}`;
      throw new VesperError('PROVIDER', message, { data: { guest: name } });
    });
  }

  regionRoom(): Promise<number> {
    return this.#regionTurn.take(() => this.#region.room());
  }

  provideRegion(bytes: number): Promise<ProvidedRegion> {
    return this.#regionTurn.take(() => this.#region.provide(bytes));
  }

  provideShadow(bytes: number): Promise<ProvidedRegion> {
    return this.#regionTurn.take(() => keptRegionFile(this.#site.shadowPrefix, bytes));
  }

  sharedRam(): Promise<SharedRam> {
    return openSharedRam(this.#site);
  }

  async withdrawRegion(): Promise<void> {
    await this.#regionTurn.take(() =>
      this.#whileThere(
        () => this.#region.withdraw(),
        () => this.#region.removeFiles(),
      ),
    );
  }

  /** Everything is as it was; of a QEMU that is gone, its files are removed. */
  async release(): Promise<void> {
    const port = this.#portTurn.take(() =>
      this.#whileThere(
        () => this.#port.withdraw(),
        () => this.#port.removeFiles(),
      ),
    );
    const results = await Promise.allSettled([port, this.withdrawRegion()]);
    await this.#regionTurn.take(() => removeRegionFiles(this.#site.shadowPrefix));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** Of QEMU's event DEVICE_DELETED. */
  deviceDeleted({ device, path }: { readonly device?: unknown; readonly path?: unknown }): void {
    this.#port.deviceDeleted(path);
    void this.#quietly(() => this.#region.deviceDeleted(device));
  }

  machineGone(): void {
    void this.#quietly(() => this.#region.machineGone());
  }

  async #whileThere(work: () => Promise<void>, afterwards: () => Promise<void>): Promise<void> {
    try {
      if (!this.qmp.closed) return await work();
    } catch (error) {
      if (!this.qmp.closed) throw error;
    }
    await afterwards();
  }

  async #quietly(work: () => Promise<void>): Promise<void> {
    try {
      await this.#regionTurn.take(work);
    } catch (error) {
      this.#site.log.warn(`${this.#site.name}: ${messageOf(error)}`);
    }
  }
}
