// SPDX-License-Identifier: Apache-2.0

/** What a domain's live XML says of the places where something of ours is, or could be plugged. */

import { type Element, parseXml } from './xml.ts';

export interface DomainChannel {
  readonly alias: string;
  readonly name: string;
  /** Of a listening unix socket; undefined: it leads elsewhere. */
  readonly socketPath: string | undefined;
}

export interface DomainShmem {
  readonly alias: string;
  readonly name: string;
}

export interface RootPort {
  /** Number of the bus behind it. */
  readonly index: number;
  readonly hotplug: boolean;
  readonly taken: boolean;
}

export interface DomainDevices {
  /** Its PCI devices sit on PCI Express: what is plugged in while it runs needs a root port. */
  readonly pciExpress: boolean;
  readonly rootPorts: readonly RootPort[];
  readonly serialControllers: number;
  readonly channels: readonly DomainChannel[];
  readonly shmems: readonly DomainShmem[];
  readonly vsockCid: number | undefined;
  readonly vsockAlias: string | undefined;
  /** Whom its QEMU runs as, where libvirt sees to that. */
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
  /** Its RAM is a file that other processes may map. */
  readonly sharedRam: boolean;
}

const hotplugPorts = new Set(['pcie-root-port', 'pcie-switch-downstream-port']);

export function domainDevices(xml: string): DomainDevices {
  const domain = parseXml(xml, 'domain');
  const devices = domain.find('devices');
  const controllers = devices?.all('controller') ?? [];
  const pci = controllers.filter((one) => one.attribute('type') === 'pci');
  const vsock = devices?.find('vsock');
  const buses = new Set((devices?.children() ?? []).flatMap(busOf));
  return {
    pciExpress: pci.some((one) => one.attribute('model') === 'pcie-root'),
    rootPorts: pci
      .filter((one) => hotplugPorts.has(one.attribute('model') ?? ''))
      .map((one) => {
        const index = Number(one.attribute('index'));
        const hotplug = one.find('target')?.attribute('hotplug') !== 'off';
        return { index, hotplug, taken: buses.has(index) };
      }),
    serialControllers: controllers.filter((one) => one.attribute('type') === 'virtio-serial').length,
    channels: (devices?.all('channel') ?? []).flatMap(channelOf),
    shmems: (devices?.all('shmem') ?? []).map((one) => ({
      alias: aliasOf(one),
      name: one.attribute('name') ?? '',
    })),
    vsockCid: numberOf(vsock?.find('cid')?.attribute('address')),
    vsockAlias: vsock === undefined ? undefined : aliasOf(vsock),
    user: userOf(domain),
    sharedRam: domain.find('memoryBacking', 'access')?.attribute('mode') === 'shared',
  };
}

const aliasOf = (device: Element): string => device.find('alias')?.attribute('name') ?? '';

const numberOf = (text: string | undefined): number | undefined =>
  text === undefined || Number.isNaN(Number(text)) ? undefined : Number(text);

function busOf(device: Element): readonly number[] {
  const address = device.find('address');
  if (address?.attribute('type') !== 'pci') return [];
  return [Number(address.attribute('bus') ?? 0)];
}

function channelOf(channel: Element): readonly DomainChannel[] {
  const name = channel.find('target')?.attribute('name');
  if (name === undefined) return [];
  const source = channel.find('source');
  const listens = channel.attribute('type') === 'unix' && source?.attribute('mode') === 'bind';
  return [{ alias: aliasOf(channel), name, socketPath: listens ? source.attribute('path') : undefined }];
}

/** `+64055:+109` of the label that libvirt gives by users and groups. */
function userOf(domain: Element): DomainDevices['user'] {
  const label = domain
    .all('seclabel')
    .find((one) => one.attribute('model') === 'dac')
    ?.find('label')?.text;
  const [, uid, gid] = /^\+(\d+):\+(\d+)$/.exec(label ?? '') ?? [];
  return uid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}
