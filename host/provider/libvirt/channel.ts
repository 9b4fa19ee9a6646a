// SPDX-License-Identifier: Apache-2.0

/** How the frontend of a domain is reached: by a port of a virtio-serial controller, or else by vsock; plugged where there is none. */

import { messageOf, VesperError } from '../../error.ts';
import { portName } from '../../wire/message.ts';
import type { Devices, DomainSite } from './devices.ts';
import type { DomainDevices } from './domain-xml.ts';

/** A service that was restarted recognises by them what its predecessor plugged. */
const portAlias = 'ua-vesper-channel';
const vsockAlias = 'ua-vesper-vsock';

export type Route =
  | { readonly socketPath: string }
  /** `fresh`: its device was plugged in just now. */
  | { readonly cid: number; readonly fresh: boolean };

/** libvirt chooses the socket's path: one of ours would have to be there wherever the domain is restored or migrates to. */
const channelXml = `<channel type='unix'><source mode='bind'/><target type='virtio' name='${portName}'/><alias name='${portAlias}'/></channel>`;
const vsockXml = `<vsock model='virtio'><cid auto='yes'/><alias name='${vsockAlias}'/></vsock>`;
const unplugHint = 'the guest has to run and to take part; it goes with the next reset of the guest';

export class ChannelDevice {
  readonly #site: DomainSite;
  readonly #devices: Devices;

  constructor(site: DomainSite, devices: Devices) {
    this.#site = site;
    this.#devices = devices;
  }

  /** Plugs a port or a vsock device where there is none. Throws PROVIDER with what the domain lacks, and what to type. */
  async provide(): Promise<Route> {
    const before = await this.#devices.list();
    const there = this.#find(before);
    if (there !== undefined) return there;
    const { vsockCid: cid } = before;
    if (before.serialControllers === 0)
      return cid === undefined ? { cid: await this.#plugVsock(), fresh: true } : { cid, fresh: false };
    try {
      await this.#devices.plug('the channel', channelXml);
    } catch (thrown) {
      if (cid !== undefined) return { cid, fresh: false };
      throw thrown;
    }
    const route = this.#find(await this.#devices.list());
    if (route !== undefined) return route;
    throw this.#lost('channel');
  }

  /** Unplugs what a service plugged. */
  async withdraw(): Promise<void> {
    const { channels, vsockAlias: vsock } = await this.#devices.list();
    if (channels.some(({ alias }) => alias === portAlias)) await this.#devices.unplug(portAlias, 'try again');
    if (vsock === vsockAlias) await this.#devices.unplug(vsockAlias, unplugHint);
  }

  async #plugVsock(): Promise<number> {
    try {
      await this.#devices.plug('a vsock device', vsockXml);
    } catch (thrown) {
      throw this.#nothing(thrown);
    }
    const { vsockCid: cid } = await this.#devices.list();
    if (cid !== undefined) return cid;
    throw this.#lost('vsock device');
  }

  #find({ channels }: DomainDevices): Route | undefined {
    const channel = channels.find(({ name }) => name === portName);
    if (channel === undefined) return undefined;
    if (channel.socketPath !== undefined) return { socketPath: channel.socketPath };
    const { name } = this.#site;
    throw new VesperError(
      'PROVIDER',
      `${name}: its channel ${portName} is no listening unix socket: it has to be <channel type='unix'><source mode='bind'/>…, or not there at all (virsh edit ${name})`,
      { data: { guest: name } },
    );
  }

  #lost(what: string): VesperError {
    const { name } = this.#site;
    return new VesperError('PROVIDER', `${name}: the ${what} that was plugged in is not there`, {
      data: { guest: name },
    });
  }

  #nothing(cause: unknown): VesperError {
    const { name } = this.#site;
    const message = `${name}: it has no virtio-serial controller, which libvirt can add only before a start (virsh edit ${name}: <controller type='virtio-serial'/> among the devices), and no vsock device, which wants vhost_vsock on this host (modprobe vhost_vsock): ${messageOf(cause)}`;
    return new VesperError('PROVIDER', message, { cause, data: { guest: name } });
  }
}
