// SPDX-License-Identifier: Apache-2.0

/** A virtio-serial controller of VESPER's own, for a machine that has none to lend: plugged in while it runs, and unplugged. */

import { plugsIntoRootBus, rootPorts } from './pci.ts';
import { refusalText } from './qmp.ts';
import { busesOf, type Device, devices, unplug } from './qom.ts';
import type { Site } from './site.ts';

/** Stable: by it a service that was restarted recognises what its predecessor plugged. */
const controllerId = 'vesper-serial';
const controllerPath = `/machine/peripheral/${controllerId}`;

/** PCI_CLASS_OTHERS: by this the frontend knows it, and drives it itself (guest-module/channel_serial.c). */
const mark = 0xff;

export const isOwnController = ({ path }: Device): boolean => path === controllerPath;

/** Whether a bus, by its path, is that of our controller. */
export const isOnOwnController = (busPath: string): boolean => busPath.startsWith(`${controllerPath}/`);

/** Its bus, or why there is none, for people: `nor a free …`. */
export async function ownSerialBus(
  site: Site,
): Promise<{ readonly name: string } | { readonly lacks: string }> {
  const { qmp } = site;
  if (!(await devices(qmp)).some(isOwnController)) {
    const refused = await plug(site);
    if (refused !== undefined) return { lacks: refused };
  }
  const [bus] = await busesOf(qmp, `${controllerPath}/virtio-backend`, 'virtio-serial-bus');
  return bus ?? { lacks: 'and the one that was plugged in is just going away' };
}

/** Says what hinders it. */
async function plug({ qmp }: Site): Promise<string | undefined> {
  const device = { driver: 'virtio-serial-pci', id: controllerId, max_ports: 2, class: mark };
  let place = {};
  if (!(await plugsIntoRootBus(qmp))) {
    // The one with the least room: the region may need the others'.
    const [port] = (await rootPorts(qmp)).free.toSorted((a, b) => a.reserved - b.reserved);
    if (port === undefined) return 'nor a free PCI Express root port to plug one in';
    place = { bus: port.bus };
  }
  try {
    await qmp.execute('device_add', { ...device, ...place });
    return undefined;
  } catch (error) {
    const text = refusalText(error);
    if (text === '') throw error;
    return `nor takes one (${text})`;
  }
}

/** No-op where there is none. */
export async function withdrawController({ qmp, unplugLimitMs }: Site): Promise<void> {
  if (!(await devices(qmp)).some(isOwnController)) return;
  const hint =
    'the guest has to run and to take part (ACPI or PCIe hot-plug in its kernel); it goes with the next reset of the guest';
  await unplug(qmp, controllerId, unplugLimitMs, hint);
}
