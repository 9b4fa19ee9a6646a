// SPDX-License-Identifier: Apache-2.0

/** How large a region a guest is given. */

import { rmSync } from 'node:fs';
import { afterAll, expect, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import type { MachineType } from '../../host/demo/qemu-arguments.ts';
import { leftovers, ServiceProcess } from '../harness/rig.ts';

const MiB = 1 << 20;

afterAll(() => expect(leftovers()).toEqual([]));

async function regionMib(machine: Machine, more: readonly string[]): Promise<number> {
  await using service = new ServiceProcess(machine, undefined, { more });
  await service.start();
  const { relay } = await service.guestUntil(({ state }) => state === 'active');
  return (relay?.region_bytes ?? 0) / MiB;
}

test.each<[MachineType, number, number]>([
  ['pc', 1, 2],
  ['pc', 4, 8],
  // What finds a place behind a root port of which nothing is said.
  ['q35', 4, 2],
])('%s with %i CPUs: %i MiB where nothing else is said', async (machine, cpus, mib) => {
  expect(await regionMib(await Machine.boot({ machine, cpus }), [])).toBe(mib);
});

test('as large as the service was told', async () => {
  expect(await regionMib(await Machine.boot(), ['--region-mib', '8'])).toBe(8);
});

test('a size that no region can have is wrong usage', async () => {
  await using machine = await Machine.boot({ frontend: false });
  for (const size of ['3', '0', '0.5', '2048', 'large']) {
    const service = new ServiceProcess(machine, undefined, { more: ['--region-mib', size] });
    await expect(service.start()).rejects.toThrow(/ended \(2\).*power of two/s);
    rmSync(service.directory, { recursive: true });
  }
});
