// SPDX-License-Identifier: Apache-2.0

/** What VESPER has plugged into one run of one domain. One piece of work at a time: a domain that hangs holds up one call. */

import { messageOf } from '../../error.ts';
import { type AskAgent, agentResult, parsedAnswer, readByAgent } from '../guest-agent.ts';
import type { ProvidedRegion, SharedRam } from '../provider.ts';
import { openSharedRam } from '../qemu/ram.ts';
import { keptRegionFile, removeRegionFiles } from '../region-file.ts';
import { Turns } from '../turns.ts';
import { ChannelDevice, type Route } from './channel.ts';
import { Devices, type DomainSite } from './devices.ts';
import { monitorOf } from './monitor.ts';
import { RegionDevice } from './region.ts';

/** Less than what a call of libvirt may take: the domain would be taken for one that hangs. */
const agentLimitS = 2;

export class Hardware {
  readonly #site: DomainSite;
  readonly #devices: Devices;
  readonly #channel: ChannelDevice;
  readonly #region: RegionDevice;
  readonly #turn = new Turns();
  #gone = false;
  #plugged: boolean;

  /** `plugged`: something of ours is in the domain already. */
  constructor(site: DomainSite, plugged: boolean) {
    this.#plugged = plugged;
    this.#site = site;
    this.#devices = new Devices(site);
    this.#channel = new ChannelDevice(site, this.#devices);
    this.#region = new RegionDevice(site, this.#devices);
  }

  /** The domain ended: nothing is plugged in any more, files may be left. */
  machineGone(): void {
    this.#gone = true;
  }

  get gone(): boolean {
    return this.#gone;
  }

  /** Something of ours is plugged in, as far as is known. */
  get plugged(): boolean {
    return this.#plugged;
  }

  provideRoute(): Promise<Route> {
    this.#plugged = true;
    return this.#turn.take(() => this.#channel.provide());
  }

  regionRoom(): Promise<number> {
    return this.#turn.take(() => this.#region.room());
  }

  provideRegion(bytes: number): Promise<ProvidedRegion> {
    return this.#turn.take(() => this.#region.provide(bytes));
  }

  async withdrawRegion(): Promise<void> {
    await this.#turn.take(() => (this.#gone ? this.#region.removeFiles() : this.#region.withdraw()));
  }

  provideShadow(bytes: number): Promise<ProvidedRegion> {
    return this.#turn.take(() => keptRegionFile(this.#site.shadowPrefix, bytes));
  }

  sharedRam(): Promise<SharedRam> {
    return this.#turn.take(async () => {
      const monitor = await monitorOf(this.#site, await this.#devices.list());
      return openSharedRam({ name: this.#site.name, qmp: monitor });
    });
  }

  /** No turn is taken: the agent is libvirt's, and a guest that does not answer holds up nothing else. */
  readGuestFile(path: string, mostBytes: number): Promise<Uint8Array> {
    const { name, link } = this.#site;
    const ask: AskAgent = async (execute, args) => {
      const command = JSON.stringify({ execute, arguments: args });
      const answer = await link.onDomain(this.#site, `its guest agent's ${execute}`, (domain) =>
        domain.agentCommand(command, { seconds: agentLimitS }),
      );
      return agentResult(name, execute, parsedAnswer(name, answer));
    };
    return readByAgent(name, ask, path, mostBytes);
  }

  /** Everything is as it was; of a domain that ended, its files are removed. */
  async release(): Promise<void> {
    this.#plugged = false;
    const channel = this.#turn.take(async () => {
      if (!this.#gone) await this.#channel.withdraw();
    });
    const results = await Promise.allSettled([channel, this.withdrawRegion()]);
    await this.#turn.take(() => removeRegionFiles(this.#site.shadowPrefix));
    for (const result of results) if (result.status === 'rejected' && !this.#gone) throw result.reason;
  }

  /** Of libvirt's event. */
  deviceRemoved(alias: string): void {
    this.#devices.removed(alias);
    this.#region
      .removed(alias)
      .catch((thrown) => this.#site.log.warn(`${this.#site.name}: ${messageOf(thrown)}`));
  }
}
