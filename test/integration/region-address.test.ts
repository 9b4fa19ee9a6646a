// SPDX-License-Identifier: Apache-2.0

/** A q35 guest that has no address for the memory of a hot-plugged device: ours, or somebody else's beside ours. */

import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { silentLog } from '../../host/log.ts';
import { QemuProvider } from '../../host/provider/qemu/provider.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import type { ManagedGuest } from '../../host/service/managed-guest.ts';
import { Service } from '../../host/service/service.ts';
import { leftovers } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

const mib = 1 << 20;
/** Firmware and kernel leave 2 MiB behind a root port. */
const tooLarge = 16 * mib;

/** A service with regions of that size, whether or not a session comes about. */
async function serve(machine: Machine, regionBytes: number): Promise<ManagedGuest> {
  const log = silentLog();
  const relays = new RelayHub();
  const service = new Service({
    log,
    relays,
    providers: [
      new QemuProvider({
        monitors: [{ path: machine.qmpPath, name: machine.name }],
        runtimeDirectory: join(machine.directory, 'qemu'),
        regionDirectory: machine.directory,
        log,
      }),
    ],
    config: {
      runDirectory: join(machine.directory, 'run'),
      stateDirectory: join(machine.directory, 'state'),
      catalogueRoots: [],
      regionBytes,
      // Others would take its place.
      relayBackend: 'ivshmem',
      heartbeatMs: 500,
    },
  });
  onTestFinished(async () => {
    await service.stop();
    relays.close();
    await machine.close();
  });
  await service.start();
  return service.guestFound(machine.name, 10_000);
}

/** Resolves with the guest's state and reason as soon as it is no more on its way. */
async function verdict(guest: ManagedGuest): Promise<{ state: string; reason: string }> {
  await expect.poll(() => guest.state, { timeout: 20_000 }).toMatch(/^(active|reachable|degraded)$/);
  return { state: guest.state, reason: guest.reason };
}

test('ours: told at once, with what to do', async () => {
  const machine = await Machine.boot({ machine: 'q35' });
  const startedAt = performance.now();
  const guest = await serve(machine, tooLarge);
  const advice = `${machine.name}: the guest's kernel found no address for the memory of the region: use a smaller region than ${tooLarge} bytes, or start the machine with pref64-reserve=${2 * tooLarge} at the PCI Express root port it is plugged into`;
  expect(await verdict(guest)).toEqual({ state: 'reachable', reason: advice });
  expect(performance.now() - startedAt).toBeLessThan(6_000);
});

test('with the pref64-reserve that it says a large one is placed', async () => {
  const roomy = [
    '-device',
    `pcie-root-port,id=roomy,chassis=9,port=0x20,bus=pcie.0,addr=0x5,pref64-reserve=${2 * tooLarge}`,
  ];
  const machine = await Machine.boot({ machine: 'q35', qemuArguments: roomy });
  expect(await verdict(await serve(machine, tooLarge))).toEqual({ state: 'active', reason: 'activated' });
});

test("somebody else's: ours is fine", async () => {
  const machine = await Machine.boot({ machine: 'q35' });
  const file = join(machine.directory, 'foreign');
  writeFileSync(file, Buffer.alloc(tooLarge));
  onTestFinished(() => rmSync(file, { force: true }));
  const memory = { 'qom-type': 'memory-backend-file', 'mem-path': file, size: tooLarge, share: true };
  const position = machine.consolePosition();
  await machine.qmp('object-add', { id: 'foreign-memory', ...memory });
  const device = { driver: 'ivshmem-plain', id: 'foreign', memdev: 'foreign-memory', bus: 'pci.5' };
  await machine.qmp('device_add', device);
  await machine.waitConsole(/the shared region cannot be used \(-28\)/, 20_000, position);
  expect(await verdict(await serve(machine, mib))).toEqual({ state: 'active', reason: 'activated' });
});
