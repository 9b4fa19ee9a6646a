// SPDX-License-Identifier: Apache-2.0

/** The qemu provider with a stock Debian guest: what needs the guest's kernel to take part. */

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { Machine as Guest, type MachineOptions } from '../../host/demo/machine.ts';
import { silentLog } from '../../host/log.ts';
import type { Machine } from '../../host/provider/provider.ts';
import { QemuProvider, type QemuProviderOptions } from '../../host/provider/qemu/provider.ts';

const mib = 1 << 20;
const ivshmem = '/sys/bus/pci/devices/$(basename $(dirname $(grep -l 0x1110 /sys/bus/pci/devices/*/device)))';

let folder: string;
let directories: { runtimeDirectory: string; regionDirectory: string };

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-provider-'));
  directories = { runtimeDirectory: join(folder, 'run'), regionDirectory: join(folder, 'shm') };
  mkdirSync(directories.regionDirectory);
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

interface Rig {
  readonly guest: Guest;
  readonly machine: Machine;
  /** Kinds of events, the reason behind a stop. */
  readonly told: string[];
}

async function rig(options: MachineOptions, provider: Partial<QemuProviderOptions> = {}): Promise<Rig> {
  const guest = await Guest.boot({ frontend: false, ...options });
  onTestFinished(() => guest.close());
  const told: string[] = [];
  const found = Promise.withResolvers<Machine>();
  const monitors = [{ path: guest.qmpPath }];
  const watching = new QemuProvider({ monitors, ...directories, log: silentLog(), ...provider });
  onTestFinished(() => watching.stop());
  await watching.start({
    machineFound: found.resolve,
    lifecycle: (_, event) => told.push(event.kind === 'stopped' ? `stopped: ${event.reason}` : event.kind),
  });
  return { guest, machine: await found.promise, told };
}

/** All that can be plugged, as QEMU lists it. */
async function hardware(guest: Guest): Promise<{ pci: unknown; devices: string[] }> {
  const commands = [
    guest.qmp('query-chardev'),
    ...['/machine/peripheral', '/machine/peripheral-anon', '/objects'].map((path) =>
      guest.qmp('qom-list', { path }),
    ),
  ];
  const lists = (await Promise.all(commands)) as object[][];
  // QEMU keeps them in hash tables: their order changes with every entry.
  const devices = lists.flatMap((list) => list.map((entry) => JSON.stringify(entry)).sort());
  return { pci: await guest.qmp('query-pci'), devices };
}

describe.each(['pc', 'q35'] as const)('%s', (type) => {
  test('bytes and memory are shared with the guest; unplugged, its hardware is as it was', async () => {
    const { guest, machine } = await rig({ machine: type });
    const before = await hardware(guest);

    const channel = await machine.openChannel();
    let received = '';
    channel.onData((chunk) => {
      received += Buffer.from(chunk).toString();
    });
    const closed = new Promise<string>((resolve) => channel.onClose(resolve));
    const port = '/dev/$(grep -l org.vesper.probe.0 /sys/class/virtio-ports/*/name | cut -d/ -f5)';
    await guest.check(`until test -c ${port}; do sleep .02; done; echo from the guest >${port}`);
    await expect.poll(() => received).toBe('from the guest\n');
    await channel.write(Buffer.from('from the host\n'));
    expect(await guest.check(`head -n1 ${port}`)).toBe('from the host');

    const region = await machine.provideRegion(mib);
    await guest.check(`until test -e ${ivshmem}/resource2; do sleep .02; done; echo 1 >${ivshmem}/enable`);
    const base = (await guest.check(`sed -n 3p ${ivshmem}/resource`)).split(' ')[0] as string;
    expect(await guest.check(`devmem ${base} 32`)).toBe('0x52505356');
    await guest.check(`devmem 0x${(BigInt(base) + 0x8000n).toString(16)} 32 0xc0ffee11`);
    expect(readFileSync(region.path).readUInt32LE(0x8000)).toBe(0xc0ffee11);

    await machine.release();
    expect(await closed).toBeTypeOf('string');
    expect(await hardware(guest)).toEqual(before);
    expect(
      await guest.check(
        'ls /sys/class/virtio-ports | wc -l; grep -l 0x1110 /sys/bus/pci/devices/*/device | wc -l',
      ),
    ).toBe('0\n0');
    expect(readdirSync(directories.regionDirectory)).toEqual([]);
    expect(readdirSync(directories.runtimeDirectory)).toEqual([]);
  });

  test('a region comes and goes ten times, each time as memory of another name', async () => {
    const { guest, machine } = await rig({ machine: type });
    const before = await hardware(guest);
    const names = new Set<string>();
    for (let round = 0; round < 10; round += 1) {
      await machine.provideRegion(mib);
      // A name that comes again while QEMU still frees its predecessor aborts QEMU.
      const objects = (await guest.qmp('qom-list', { path: '/objects' })) as { name: string }[];
      for (const { name } of objects) if (name.startsWith('vesper-')) names.add(name);
      await machine.withdrawRegion();
    }
    expect(names.size).toBe(10);
    expect(await hardware(guest)).toEqual(before);
    expect(guest.console()).not.toMatch(/WARNING|BUG|Oops/);
  });

  test('what was plugged survives a reboot of the guest, and leaves it afterwards', async () => {
    const { guest, machine, told } = await rig({ machine: type });
    const before = await hardware(guest);
    const channel = await machine.openChannel();
    onTestFinished(() => channel.close());
    const region = await machine.provideRegion(mib);
    await guest.reset();
    expect(told).toEqual(['rebooted']);
    expect(await machine.provideRegion(mib)).toEqual(region);
    expect(await guest.check('cat /sys/class/virtio-ports/*/name')).toBe('org.vesper.probe.0');
    await machine.release();
    // The firmware numbers buses and places BARs anew at a boot with more devices.
    expect((await hardware(guest)).devices).toEqual(before.devices);
    expect(existsSync(region.path)).toBe(false);
  });
});

test('what happens to a guest is told, each once', async () => {
  const { guest, machine, told } = await rig({
    qemuArguments: ['-device', 'pvpanic', '-action', 'panic=none'],
    modules: ['virtio_pci', 'virtio_console', 'pvpanic-mmio'],
    panic: 1,
  });
  expect(machine.state).toBe('running');
  await guest.qmp('stop');
  await expect.poll(() => machine.state).toBe('paused');
  await guest.qmp('cont');
  await expect.poll(() => machine.state).toBe('running');
  expect(told).toEqual(['paused', 'resumed']);

  const rebooting = guest.consolePosition();
  await guest.post('reboot -f');
  await guest.waitReady(rebooting);
  expect(told.splice(0)).toEqual(['paused', 'resumed', 'rebooted']);

  const panicking = guest.consolePosition();
  await guest.sysrq('c');
  await guest.waitReady(panicking);
  expect(told.splice(0)).toEqual(['panicked', 'rebooted']);

  await guest.post('poweroff -f');
  await guest.exited;
  await expect.poll(() => told).toEqual(['stopped: shut down by the guest']);
  expect(machine.state).toBe('stopped');
});

test('a paused guest does not let go of the region; it does when it runs again', async () => {
  const { guest, machine } = await rig({}, { unplugLimitMs: 300 });
  const before = await hardware(guest);
  const { path } = await machine.provideRegion(mib);
  await guest.qmp('stop');
  await expect(machine.withdrawRegion()).rejects.toMatchObject({ code: 'TIMEOUT' });
  expect(existsSync(path)).toBe(true);
  await guest.qmp('cont');
  await expect.poll(() => existsSync(path), { timeout: 10_000 }).toBe(false);
  expect(await hardware(guest)).toEqual(before);
  const again = await machine.provideRegion(mib);
  expect(again.path).not.toBe(path);
});
