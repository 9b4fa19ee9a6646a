// SPDX-License-Identifier: Apache-2.0

/** Guests without any virtio-serial controller: everything goes over vsock. */

import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { encodeFrame } from '../../host/channel/frame.ts';
import { connectHybridVsock } from '../../host/channel/vsock.ts';
import { Machine } from '../../host/demo/machine.ts';
import { kernelKeys } from '../../host/kernel/release.ts';
import { vsockPort } from '../../host/wire/message.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { buildGuestProgram } from '../harness/peer.ts';
import { fixturePath, leftovers, Rig, type RigOptions, repository } from '../harness/rig.ts';
import { VsockBackend } from '../harness/vsock-backend.ts';

afterAll(() => expect(leftovers()).toEqual([]));

const vsockModules = ['virtio_pci', 'vmw_vsock_virtio_transport'];
const withoutController = { virtioSerial: false, sharedMemory: true, modules: vsockModules };

async function backend(): Promise<VsockBackend> {
  const started = await VsockBackend.start();
  onTestFinished(() => started.close());
  return started;
}

async function rigWith(vsock: VsockBackend, options: RigOptions): Promise<Rig> {
  const rig = await Rig.start({
    ...withoutController,
    qemuArguments: vsock.qemuArguments,
    hybridVsockPath: vsock.hybridPath,
    heartbeatMs: 300,
    ...options,
  });
  onTestFinished(() => rig.close());
  return rig;
}

const died = (rig: Rig, comm: string) =>
  rig.event(({ event, fields }) => event === 'died' && fields['comm'] === comm);

async function unharmed(rig: Rig): Promise<void> {
  expect(await rig.machine.check('echo I am fine')).toBe('I am fine');
  expectNoComplaints(rig.machine.console());
  for (const { lost } of rig.view.past) expect(lost).toBe(0);
  if (rig.view.relay !== null) expect(rig.view.relay).toMatchObject({ lost: 0, gaps: 0, undecodable: 0 });
}

/** Somebody else who calls the frontend. */
async function call(vsock: VsockBackend): Promise<Socket> {
  const socket = connect(vsock.hybridPath);
  onTestFinished(() => void socket.destroy());
  socket.on('error', () => socket.destroy());
  socket.write(`CONNECT ${vsockPort}\n`);
  const [line] = (await once(socket, 'data')) as [Buffer];
  expect(line.toString()).toMatch(/^OK \d+\n$/);
  return socket;
}

const hungUp = (socket: Socket) =>
  new Promise<void>((resolve) => {
    socket.resume();
    if (socket.closed) resolve();
    else socket.once('close', () => resolve());
  });

describe.each(kernelKeys)('%s', (kernel) => {
  test('a guest is served, also after it rebooted and after the service was restarted', async () => {
    const vsock = await backend();
    const rig = await rigWith(vsock, { kernel });
    expect(rig.view.channel).toBe(`vsock port ${vsockPort} (${vsock.hybridPath})`);
    expect((await rig.machine.run('ls /sys/class/virtio-ports')).output).not.toContain('vport');

    await rig.attach(['signal']);
    await rig.machine.run('actor --name first segv');
    await died(rig, 'first');

    const before = rig.view.boot_id;
    await rig.machine.reset();
    await rig.until(
      () => rig.view.boot_id !== before && rig.view.state === 'active' && rig.view.probes[0]?.loaded,
      'the next incarnation',
    );
    await rig.machine.run('actor --name second segv');
    expect((await died(rig, 'second')).bootId).toBe(rig.view.boot_id);

    await rig.restartService();
    expect(rig.view).toMatchObject({ state: 'active', reason: 'resumed' });
    await rig.machine.run('actor --name third segv');
    await died(rig, 'third');

    await rig.guest.detach('signal', 'test');
    expect(await rig.machine.run('grep ^signal /proc/modules')).toMatchObject({ status: 1 });
    await rig.machine.check('rmmod vesper');
    await rig.until(() => rig.view.state !== 'active', 'the end of the session');
    await expect(connectHybridVsock(vsock.hybridPath)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('no frontend listens'),
    });
    await unharmed(rig);
  });

  test('a large push: more than sockets and the device hold', async () => {
    const rig = await rigWith(await backend(), { kernel });
    const image = join(rig.directory, 'bulky.ko');
    writeFileSync(
      image,
      Buffer.concat([readFileSync(fixturePath(kernel, 'bulky')), Buffer.alloc(800 << 10)]),
    );
    await rig.attach([image]);
    expect(await rig.machine.check('cut -d" " -f1 /proc/modules')).toContain('bulky');
    await unharmed(rig);
  });

  test('no free memory and the OOM killer at work: a probe is attached and sees its kills', async () => {
    const rig = await rigWith(await backend(), { kernel });
    for (const name of ['glutton1', 'glutton2', 'glutton3'])
      await rig.machine.start(`sh -c "while :; do actor --name ${name} eat; done"`);
    await rig.machine.waitConsole(/(?:Out of memory: Killed process.*\n[\s\S]*){2}/, 90_000);
    // Not only the attach: the handshake, too.
    await rig.restartService();
    await rig.attach(['oom']);
    const kill = await rig.event(({ probe, event }) => probe === 'oom' && event === 'kill');
    expect(kill.fields['comm']).toMatch(/^glutton/);
    expect(await rig.guest.detach('oom', 'test')).toMatchObject({ ok: true });
    expectNoComplaints(rig.machine.console());
  });

  test('the device is plugged into a running guest, before its driver is there', async () => {
    const vsock = await backend();
    const machine = await Machine.boot({
      kernel,
      ...withoutController,
      loadModules: ['virtio_pci'],
      // Else it would be spoken to over a controller that is plugged in.
      append: 'vesper.channel=vsock',
    });
    const options = { kernel, hybridVsockPath: vsock.hybridPath, heartbeatMs: 300 };
    onTestFinished(() => machine.close());
    // Loaded by init, in a kernel that has no vsock: it waits.
    expect(await machine.check('cut -d" " -f1 /proc/modules')).toContain('vesper');
    expect(await machine.check('cut -d" " -f1 /proc/modules')).not.toContain('vsock');

    const rig = await Rig.serve(machine, options, ({ service }) => service.guestFound(machine.name, 10_000));
    onTestFinished(() => rig.close());
    await rig.until(() => rig.view.reason.includes('no frontend answers'), 'the word of what is missing');
    await vsock.plugInto(machine);
    await machine.check('modprobe vmw_vsock_virtio_transport');
    await rig.until(() => rig.view.state === 'active', 'the session');
    await rig.attach(['signal']);
    await rig.machine.run('actor --name plugged segv');
    await died(rig, 'plugged');

    // It may go, and come back.
    await rig.machine.qmp('device_del', { id: 'vsock0' });
    await rig.until(() => rig.view.state !== 'active', 'the end of the session');
    await vsock.unplugged(rig.machine);
    await vsock.plugInto(machine);
    await rig.until(() => rig.view.state === 'active', 'the next session');
    await rig.machine.run('actor --name again segv');
    await died(rig, 'again');
    await unharmed(rig);
  });
});

describe('whoever else calls', () => {
  test('is turned away while a host is served, whatever it sends', async () => {
    const vsock = await backend();
    const rig = await rigWith(vsock, {});
    await rig.attach(['signal']);
    const { boot_id } = rig.view;
    for (let round = 0; round < 20; round += 1) {
      const stranger = await call(vsock);
      stranger.write(Buffer.alloc(8_000, 'VSPR'));
      await hungUp(stranger);
    }
    await rig.machine.run('actor --name undisturbed segv');
    await died(rig, 'undisturbed');
    expect(rig.view).toMatchObject({ state: 'active', boot_id, past: [] });
    await unharmed(rig);
  });

  test('was there first, with garbage: the service takes its place', async () => {
    const vsock = await backend();
    const machine = await Machine.boot({ ...withoutController, qemuArguments: vsock.qemuArguments });
    onTestFinished(() => machine.close());
    const stranger = await call(vsock);
    stranger.write(Buffer.alloc(100_000, 'VSPR'));
    const rig = await Rig.serve(machine, { hybridVsockPath: vsock.hybridPath });
    onTestFinished(() => rig.close());
    await hungUp(stranger);
    await rig.attach(['signal']);
    await unharmed(rig);
  });

  test('said hello, and then nothing: it gives way after half a minute, and not before', async () => {
    const vsock = await backend();
    const machine = await Machine.boot({ ...withoutController, qemuArguments: vsock.qemuArguments });
    onTestFinished(() => machine.close());
    const hello = encodeFrame('hello_request', 1, { min_version: 1, max_version: 1 });
    const silent = await call(vsock);
    silent.write(hello);
    await once(silent, 'data');
    const since = performance.now();
    for (;;) {
      const next = await call(vsock);
      next.write(hello);
      const answered = new Promise<boolean>((resolve) => next.once('data', () => resolve(true)));
      if (await Promise.race([answered, hungUp(next).then(() => false)])) break;
      expect(performance.now() - since).toBeLessThan(45_000);
      await new Promise((done) => setTimeout(done, 500));
    }
    expect(performance.now() - since).toBeGreaterThan(25_000);
    await hungUp(silent);
  });

  test('from no reserved port: is turned away where the guest insists on one', async () => {
    const vsock = await backend();
    const machine = await Machine.boot({
      ...withoutController,
      append: 'vesper.vsock_reserved=1',
      qemuArguments: vsock.qemuArguments,
    });
    onTestFinished(() => machine.close());
    const stranger = await call(vsock);
    await hungUp(stranger);
    expect(machine.console()).toContain('vesper: somebody who is not the hypervisor called on vsock');
  });

  test('a process of the guest, over loopback, is not listened to', async () => {
    const vsock = await backend();
    const machine = await Machine.boot({
      ...withoutController,
      modules: [...vsockModules, 'vsock_loopback'],
      files: { 'bin/vsock-call': await buildGuestProgram('vsock-call') },
      qemuArguments: vsock.qemuArguments,
    });
    onTestFinished(() => machine.close());
    expect(await machine.check(`vsock-call 1 ${vsockPort}`)).toMatch(/closed$/);
    expect(machine.console()).toContain('vesper: somebody who is not the hypervisor called on vsock');
  });
});

describe('channel=', () => {
  test('virtio-serial: nobody listens on vsock', async () => {
    const vsock = await backend();
    const append = 'vesper.channel=virtio-serial';
    const machine = await Machine.boot({ ...withoutController, append, qemuArguments: vsock.qemuArguments });
    onTestFinished(() => machine.close());
    await expect(connectHybridVsock(vsock.hybridPath)).rejects.toMatchObject({ code: 'UNREACHABLE' });
  });

  test('vsock: the port is left alone', async () => {
    const vsock = await backend();
    await using machine = await Machine.boot({
      ...withoutController,
      virtioSerial: true,
      modules: [...vsockModules, 'virtio_console'],
      append: 'vesper.channel=vsock',
      qemuArguments: [
        ...vsock.qemuArguments,
        ...['-chardev', 'null,id=own', '-device', 'virtserialport,chardev=own,name=org.vesper.probe.0'],
      ],
    });
    // Whoever comes first has the port.
    expect(await machine.run('exec 3<>/dev/vport0p1')).toMatchObject({ status: 0 });
    (await connectHybridVsock(vsock.hybridPath)).close();
  });

  test('nonsense: the frontend is not loaded, and says why', async () => {
    await using machine = await Machine.boot({ loadModules: ['virtio_pci'] });
    await machine.check('rmmod vesper');
    expect(await machine.run('modprobe vesper channel=pigeon')).toMatchObject({ status: 1 });
    expect(machine.console()).toContain('vesper: channel=pigeon: it is virtio-serial, vsock or auto');
    await machine.check('modprobe vesper');
  });
});

test("the addon's calls, between the kernel's own sockets", async () => {
  const program = join(repository, 'build/test/vsock-pump');
  await using machine = await Machine.boot({
    modules: ['virtio_pci', 'vsock_loopback'],
    frontend: false,
    files: { 'bin/vsock-pump': program },
  });
  expect(await machine.run('vsock-pump', { timeoutMs: 60_000 })).toEqual({
    status: 0,
    output: 'all is well',
  });
});
