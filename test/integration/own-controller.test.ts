// SPDX-License-Identifier: Apache-2.0

/** Guests without a virtio-serial controller, or any vsock: a controller of VESPER's own, with the frontend's own driver. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, Rig, type RigOptions } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

const hotPlug = { virtioSerial: false, modules: ['virtio_pci'] };

async function start(options: RigOptions): Promise<Rig> {
  const rig = await Rig.start({ heartbeatMs: 300, ...options });
  onTestFinished(() => rig.close());
  return rig;
}

/** Names of the drivers of all virtio-serial controllers of the guest. */
const drivers = (machine: Machine) =>
  machine.check(
    'for d in /sys/bus/virtio/devices/*; do' +
      ' grep -q 0x0003 $d/device && if [ -e $d/driver ]; then basename $(readlink $d/driver); else echo none; fi;' +
      ' done; true',
  );

const peripherals = async (machine: Machine) =>
  ((await machine.qmp('qom-list', { path: '/machine/peripheral' })) as { name: string }[]).map(
    ({ name }) => name,
  );

async function seesDeathOf(rig: Rig, comm: string): Promise<void> {
  await rig.machine.run(`actor --name ${comm} segv`);
  const { bootId } = await rig.event(({ event, fields }) => event === 'died' && fields['comm'] === comm);
  expect(bootId).toBe(rig.view.boot_id);
}

async function unharmed(rig: Rig): Promise<void> {
  expectNoComplaints(rig.machine.console());
  if (rig.view.relay !== null) expect(rig.view.relay).toMatchObject({ lost: 0, gaps: 0, undecodable: 0 });
}

describe.each([
  // Of this one virtio_console is a module, which is not even there; of the other it is built in.
  { kernel: '6.1', machine: 'pc', afterwards: 'none' },
  { kernel: '6.12', machine: 'q35', afterwards: 'virtio_console' },
] as const)('$kernel on $machine', ({ kernel, machine: type, afterwards }) => {
  test('a life: attach, reboot, restart of the service, unplugged under it, unload and load', async () => {
    const rig = await start({ ...hotPlug, kernel, machine: type });
    const { machine } = rig;
    expect(rig.view.channel).toMatch(/^virtio-serial port org\.vesper\.probe\.0 /);
    expect(await drivers(machine)).toBe('vesper');
    expect(await machine.check('ls /sys/class/virtio-ports 2>/dev/null; true')).toBe('');
    await rig.attach(['signal']);
    await seesDeathOf(rig, 'first');

    const image = join(rig.directory, 'bulky.ko');
    writeFileSync(
      image,
      Buffer.concat([readFileSync(fixturePath(kernel, 'bulky')), Buffer.alloc(800 << 10)]),
    );
    await rig.attach([image]);
    expect(await rig.guest.detach('bulky', 'test')).toMatchObject({ ok: true });

    const before = rig.view.boot_id;
    await machine.reset();
    await rig.until(
      () => rig.view.boot_id !== before && rig.view.state === 'active' && rig.view.probes[0]?.loaded,
      'the next incarnation',
    );
    await seesDeathOf(rig, 'second');

    await rig.restartService();
    expect(rig.view).toMatchObject({ state: 'active', reason: 'resumed' });
    await seesDeathOf(rig, 'third');

    await machine.qmp('device_del', { id: 'vesper-serial' });
    await rig.until(() => rig.view.state !== 'active', 'the end of the session');
    // The service plugs in another one.
    await rig.until(() => rig.view.state === 'active', 'the next session');
    await seesDeathOf(rig, 'fourth');

    await rig.guest.detach('signal', 'test');
    await machine.check('rmmod vesper');
    expect(await drivers(machine)).toBe(afterwards);
    await rig.until(() => rig.view.state !== 'active', 'the end of the session');
    await machine.check('modprobe vesper');
    await rig.until(() => rig.view.state === 'active', 'the session of the frontend that was loaded again');
    expect(await drivers(machine)).toBe('vesper');
    await rig.attach(['signal']);
    await seesDeathOf(rig, 'fifth');
    await unharmed(rig);
  });

  test('released, the machine is as it was', async () => {
    const rig = await start({ ...hotPlug, kernel, machine: type });
    const plugged = await peripherals(rig.machine);
    expect(plugged).toEqual(expect.arrayContaining(['vesper-serial', 'vesper-port']));
    await rig.guest.machine.release();
    expect(await peripherals(rig.machine)).toEqual(plugged.filter((name) => !name.startsWith('vesper-')));
    await unharmed(rig);
  });
});

/** Holds two ports, writes to the second when it is told to, and reads from the first. */
const holder = Buffer.from(`exec 3<>/dev/$1 4<>/dev/$2
touch /tmp/holds
until [ -e /tmp/go ]; do sleep 0.1; done
echo still here >&4
head -c 1 <&3
touch /tmp/read
exec sleep 1000
`);

test('taken from virtio_console and given back, also from a process that holds the port; others keep theirs', async () => {
  const machine = await Machine.boot({
    virtioSerial: false,
    files: { 'bin/holder': holder },
    // Of the owner: full, so that it does not serve us, and in use.
    qemuArguments: [
      ...['-device', 'virtio-serial-pci,id=own,max_ports=2', '-chardev', 'ringbuf,id=ring'],
      ...['-device', 'virtserialport,bus=own.0,chardev=ring,name=somebody'],
    ],
  });
  onTestFinished(() => machine.close());
  await machine.check('rmmod vesper');
  const rig = await Rig.serve(machine, { heartbeatMs: 300 }, ({ service }) =>
    service.guestFound(machine.name, 10_000),
  );
  onTestFinished(() => rig.close());
  const node = 'for n in /sys/class/virtio-ports/*; do grep -q "^org.vesper" $n/name && basename $n; done';
  await rig.until(() => rig.view.reason !== '', 'a state');
  const port = await machine.check(`until ${node} 2>/dev/null | grep vport; do sleep 0.1; done`);
  expect(await drivers(machine)).toBe('virtio_console\nvirtio_console');
  const other = await machine.check('grep -l ^somebody /sys/class/virtio-ports/*/name | cut -d/ -f5');
  await machine.start(`sh /bin/holder ${port} ${other}`);
  await machine.check('until [ -e /tmp/holds ]; do sleep 0.1; done');

  await machine.check('modprobe vesper');
  await rig.until(() => rig.view.state === 'active', 'the session');
  expect((await drivers(machine)).split('\n').toSorted()).toEqual(['vesper', 'virtio_console']);
  await rig.attach(['signal']);
  await seesDeathOf(rig, 'taken');
  await machine.check('touch /tmp/go; until [ -e /tmp/read ]; do sleep 0.1; done');
  expect(await machine.qmp('ringbuf-read', { device: 'ring', size: 100 })).toBe('still here\n');

  await rig.guest.detach('signal', 'test');
  await machine.check('rmmod vesper');
  expect(await drivers(machine)).toBe('virtio_console\nvirtio_console');
  expect(await machine.check(`until ${node} 2>/dev/null | grep vport; do sleep 0.1; done`)).toMatch(/^vport/);
  await unharmed(rig);
});

test.each([
  { kernel: '6.1', controller: 'plugged by the service', qemuArguments: [] },
  {
    kernel: '6.12',
    controller: 'there from the start',
    qemuArguments: ['-device', 'virtio-serial-pci,max_ports=2,class=0xff'],
  },
] as const)('$kernel, controller $controller: suspended to RAM and woken', async (options) => {
  const rig = await start({ ...hotPlug, ...options });
  expect(await drivers(rig.machine)).toBe('vesper');
  await rig.attach(['signal']);
  const position = rig.machine.consolePosition();
  await rig.machine.post('echo mem >/sys/power/state; echo awake >/dev/console');
  await expect
    .poll(async () => ((await rig.machine.qmp('query-status')) as { status: string }).status, {
      timeout: 60_000,
    })
    .toBe('suspended');
  await rig.machine.qmp('system_wakeup');
  await rig.machine.waitConsole(/^awake/m, 60_000, position);
  await rig.until(() => rig.view.state === 'active', 'the session');
  await seesDeathOf(rig, 'awake');
  await unharmed(rig);
});

test('every process stopped before the controller is plugged in: a session comes about, and the next signal is seen', async () => {
  const machine = await Machine.boot(hotPlug);
  onTestFinished(() => machine.close());
  // The kernel sends them, one after the other: one comes after the attach, however long that takes.
  const bombs = new Set<number>();
  for (const seconds of [10, 20, 40, 60])
    bombs.add(await machine.start(`actor --name bomb timebomb ${seconds * 1_000} 9`));
  await machine.freeze();
  const rig = await Rig.serve(machine, { heartbeatMs: 300 });
  onTestFinished(() => rig.close());
  await rig.attach(['signal'], ['signals=SIGKILL']);
  await rig.event(({ event, fields }) => event === 'died' && bombs.has(Number(fields['pid'])));
  await unharmed(rig);
});

test('no free memory and the OOM killer at work: a session comes about anew, and a probe sees the kills', async () => {
  const rig = await start({ ...hotPlug, kernel: '6.12' });
  for (const name of ['glutton1', 'glutton2', 'glutton3'])
    await rig.machine.start(`sh -c "while :; do actor --name ${name} eat; done"`);
  await rig.machine.waitConsole(/(?:Out of memory: Killed process.*\n[\s\S]*){2}/, 90_000);
  await rig.restartService();
  await rig.attach(['oom']);
  const kill = await rig.event(({ probe, event }) => probe === 'oom' && event === 'kill');
  expect(kill.fields['comm']).toMatch(/^glutton/);
  expect(await rig.guest.detach('oom', 'test')).toMatchObject({ ok: true });
  expectNoComplaints(rig.machine.console());
});
