// SPDX-License-Identifier: Apache-2.0

/** How the frontend of a domain is reached: by a port of a virtio-serial controller, plugged where there is none of our name, or by vsock. */

import { VesperError } from '../../error.ts';
import { portName } from '../../wire/message.ts';
import type { Devices, DomainSite } from './devices.ts';
import type { DomainDevices } from './domain-xml.ts';

/** A service that was restarted recognises by it what its predecessor plugged. */
const ourAlias = 'ua-vesper-channel';

export type Route = { readonly socketPath: string } | { readonly cid: number };

/** libvirt chooses the socket's path: one of ours would have to be there wherever the domain is restored or migrates to. */
const channelXml = `<channel type='unix'><source mode='bind'/><target type='virtio' name='${portName}'/><alias name='${ourAlias}'/></channel>`;

export class ChannelDevice {
  readonly #site: DomainSite;
  readonly #devices: Devices;

  constructor(site: DomainSite, devices: Devices) {
    this.#site = site;
    this.#devices = devices;
  }

  /** Plugs the port where there is none. Throws PROVIDER with what the domain lacks, and what to type. */
  async provide(): Promise<Route> {
    const before = await this.#devices.list();
    const there = this.#find(before);
    if (there !== undefined) return there;
    const { vsockCid: cid } = before;
    if (before.serialControllers === 0) {
      if (cid !== undefined) return { cid };
      throw this.#nothing();
    }
    try {
      await this.#devices.plug('the channel', channelXml);
    } catch (thrown) {
      if (cid !== undefined) return { cid };
      throw thrown;
    }
    const route = this.#find(await this.#devices.list());
    if (route !== undefined) return route;
    throw new VesperError('PROVIDER', `${this.#site.name}: the channel that was plugged in is not there`, {
      data: { guest: this.#site.name },
    });
  }

  /** Unplugs the port if a service plugged it. */
  async withdraw(): Promise<void> {
    const { channels } = await this.#devices.list();
    if (channels.some(({ alias }) => alias === ourAlias)) await this.#devices.unplug(ourAlias, 'try again');
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

  #nothing(): VesperError {
    const { name } = this.#site;
    const message = `${name}: it has neither a virtio-serial controller, which libvirt can add only before a start (virsh edit ${name}: <controller type='virtio-serial'/> among the devices), nor a vsock device, which can be plugged in now, where the host has vhost_vsock: echo "<vsock model='virtio'><cid auto='yes'/></vsock>" >vsock.xml; virsh attach-device ${name} vsock.xml --live`;
    return new VesperError('PROVIDER', message, { data: { guest: name } });
  }
}
