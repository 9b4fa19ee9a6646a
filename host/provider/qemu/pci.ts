// SPDX-License-Identifier: Apache-2.0

/** Where a running QEMU takes a PCI device. */

import { z } from 'zod';
import type { QmpClient } from './qmp.ts';
import { busesOf, children, type Device, devices, occupants, property } from './qom.ts';

const portTypes = new Set(['pcie-root-port', 'ioh3420', 'xio3130-downstream']);

/** A root port with nothing behind it. */
export interface FreePort {
  readonly bus: string;
  /** How much prefetchable memory is set aside behind it; 0 where nothing is said. */
  readonly reserved: number;
}

/** i440fx plugs into its root bus, QEMU finds the slot. */
export async function plugsIntoRootBus(qmp: QmpClient): Promise<boolean> {
  return (await children(qmp, '/machine')).some(({ type }) => type === 'i440FX-pcihost');
}

/** Of a PCI Express machine only a free root port takes a device while the guest runs. */
export async function rootPorts(
  qmp: QmpClient,
): Promise<{ readonly total: number; readonly free: FreePort[] }> {
  const ports = (await devices(qmp)).filter(({ type }) => portTypes.has(type));
  const free = await Promise.all(ports.map((port) => freePort(qmp, port)));
  return { total: ports.length, free: free.filter((port) => port !== undefined) };
}

async function freePort(qmp: QmpClient, { path }: Device): Promise<FreePort | undefined> {
  const [bus] = await busesOf(qmp, path, 'PCIE');
  if (bus === undefined || (await occupants(qmp, bus.path)) > 0) return undefined;
  if (!(await property(qmp, path, 'hotplug', z.boolean()).catch(() => true))) return undefined;
  const reserve = await property(qmp, path, 'pref64-reserve', z.number()).catch(() => -1);
  // "Not given" is all ones.
  return { bus: bus.name, reserved: reserve > Number.MAX_SAFE_INTEGER ? 0 : reserve };
}
