// SPDX-License-Identifier: Apache-2.0

/** The qemu provider without an operating system in the machine: what QEMU alone decides. */

import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { silentLog } from '../../host/log.ts';
import type { LifecycleEvent, Machine } from '../../host/provider/provider.ts';
import { QemuProvider, type QemuProviderOptions } from '../../host/provider/qemu/provider.ts';
import { QmpClient } from '../../host/provider/qemu/qmp.ts';
import { BareQemu, type BareQemuOptions } from '../harness/bare-qemu.ts';
import { VsockBackend } from '../harness/vsock-backend.ts';

const rootPorts = [
  '-device',
  'pcie-root-port,id=rp0,chassis=1',
  '-device',
  'pcie-root-port,id=rp1,chassis=2',
];
const shapes = {
  pc: ['-device', 'virtio-serial-pci'],
  q35: ['-device', 'virtio-serial-pci,id=vs0', ...rootPorts],
} as const;
const mib = 1 << 20;

let folder: string;
let runtimeDirectory: string;
let regionDirectory: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-provider-'));
  runtimeDirectory = join(folder, 'run');
  regionDirectory = join(folder, 'shm');
  mkdirSync(regionDirectory);
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function qemu(
  machine: 'pc' | 'q35',
  name: string,
  more: readonly string[] = shapes[machine],
  options: Partial<BareQemuOptions> = {},
): BareQemu {
  const qmpPath = join(folder, `${name}.qmp`);
  const started = new BareQemu({ machine, qmpPath, more: ['-name', name, ...more], ...options });
  onTestFinished(() => started.end());
  return started;
}

class Watching {
  readonly provider: QemuProvider;
  readonly found: Machine[] = [];
  readonly events: (LifecycleEvent & { readonly guest: string })[] = [];

  constructor(options: Partial<QemuProviderOptions> = { folders: [folder] }) {
    this.provider = new QemuProvider({ runtimeDirectory, regionDirectory, log: silentLog(), ...options });
    onTestFinished(() => this.provider.stop());
  }

  static async start(options?: Partial<QemuProviderOptions>): Promise<Watching> {
    const watching = new Watching(options);
    await watching.provider.start({
      machineFound: (machine) => watching.found.push(machine),
      lifecycle: ({ name }, event) => watching.events.push({ guest: name, ...event }),
    });
    return watching;
  }

  async machine(name: string, timeLimitMs = 10_000): Promise<Machine> {
    await expect
      .poll(() => this.found.map((m) => m.name), { timeout: timeLimitMs, interval: 10 })
      .toContain(name);
    return this.found.findLast((m) => m.name === name) as Machine;
  }
}

describe.each(['pc', 'q35'] as const)('%s', (type) => {
  test('port and region are plugged while it runs', async () => {
    qemu(type, 'g1');
    const guest = await (await Watching.start()).machine('g1');
    const channel = await guest.openChannel();
    onTestFinished(() => channel.close());
    const region = await guest.provideRegion(mib);

    const [, socket] = /\((.*)\)$/.exec(channel.description) ?? [];
    expect(channel.description).toMatch(/^virtio-serial port org\.vesper\.probe\.0 \(\/.*\)$/);
    expect(statSync(dirname(socket as string)).mode & 0o777).toBe(0o700);
    expect(statSync(region.path)).toMatchObject({ mode: 0o100600, size: mib });
    expect(dirname(region.path)).toBe(regionDirectory);
  });

  test('a provider that is started again finds what the former one plugged', async () => {
    qemu(type, 'g1');
    const before = await Watching.start();
    const first = await before.machine('g1');
    const channel = await first.openChannel();
    const region = await first.provideRegion(mib);
    channel.close();
    await before.provider.stop();

    const second = await (await Watching.start()).machine('g1');
    expect(second).not.toBe(first);
    expect(second.uuid).toBe(first.uuid);
    const again = await second.openChannel();
    onTestFinished(() => again.close());
    expect(again.description).toBe(channel.description);
    expect(await second.provideRegion(2 * mib)).toEqual(region);
    expect(readdirSync(regionDirectory).toSorted()).toEqual([
      basename(region.path),
      `${basename(region.path)}.doorbell`,
    ]);
  });

  test('killed: told once; the region is readable until release, then nothing is left', async () => {
    const killed = qemu(type, 'g1');
    const watching = await Watching.start();
    const guest = await watching.machine('g1');
    const channel = await guest.openChannel();
    const closed = new Promise((resolve) => channel.onClose(resolve));
    channel.onData(() => {});
    const region = await guest.provideRegion(mib);

    await killed.end('SIGKILL');
    await expect
      .poll(() => watching.events)
      .toEqual([{ guest: 'g1', kind: 'stopped', reason: 'QEMU was killed or crashed' }]);
    expect(await closed).toBeTypeOf('string');
    expect(guest.state).toBe('stopped');
    await expect(guest.openChannel()).rejects.toMatchObject({ code: 'UNREACHABLE' });
    await expect(guest.provideRegion(mib)).rejects.toMatchObject({ code: 'UNREACHABLE' });
    expect(existsSync(region.path)).toBe(true);

    await guest.release();
    expect(readdirSync(regionDirectory)).toEqual([]);
    expect(readdirSync(runtimeDirectory)).toEqual([]);
  });

  test('a guest that does not let go: an error in time, and no file once QEMU has ended', async () => {
    const bare = qemu(type, 'g1');
    const watching = await Watching.start({ folders: [folder], unplugLimitMs: 200 });
    const guest = await watching.machine('g1');
    const { path } = await guest.provideRegion(mib);
    await expect(guest.withdrawRegion()).rejects.toMatchObject({
      code: 'TIMEOUT',
      message: expect.stringContaining('device vesper-ivshmem was not let go within 200 ms'),
    });
    expect(existsSync(path)).toBe(true);
    await bare.end();
    await expect.poll(() => existsSync(path)).toBe(false);
  });

  test('the port goes without help of the guest, and can come again', async () => {
    qemu(type, 'g1');
    const guest = await (await Watching.start()).machine('g1');
    for (let round = 0; round < 5; round += 1) {
      const channel = await guest.openChannel();
      await guest.release();
      channel.close();
      expect(readdirSync(runtimeDirectory)).toEqual([]);
    }
  });
});

describe('machines that lack something', () => {
  test('neither a virtio-serial controller nor a place for one nor vsock', async () => {
    qemu('q35', 'g1', []);
    const guest = await (await Watching.start()).machine('g1');
    await expect(guest.openChannel()).rejects.toMatchObject({
      code: 'PROVIDER',
      message:
        'g1: the machine has no virtio-serial controller, nor a free PCI Express root port to plug one in, and no vsock device: plug one in while it runs ("device_add vhost-vsock-pci,guest-cid=3", any free number from 3), or start it with "-device virtio-serial-pci", or in libvirt with <vsock><cid auto=\'yes\'/></vsock> or <controller type=\'virtio-serial\'/>',
    });
    expect(existsSync(runtimeDirectory)).toBe(false);
  });

  test('no controller, and vsock by another process: its socket has to be said', async () => {
    await using vsock = await VsockBackend.start();
    const ram = [
      '-object',
      'memory-backend-memfd,id=ram,share=on,size=32M',
      '-machine',
      'memory-backend=ram',
    ];
    const bare = qemu('q35', 'g1', [...ram, ...vsock.qemuArguments]);
    const before = await Watching.start();
    await expect((await before.machine('g1')).openChannel()).rejects.toMatchObject({
      code: 'PROVIDER',
      message:
        'g1: the machine has no virtio-serial controller, nor a free PCI Express root port to plug one in, and another process does its vsock: tell the service on which unix socket it takes calls ("--vsock g1=/path")',
    });
    await before.provider.stop();

    const hybridVsockPaths = new Map([['g1', vsock.hybridPath]]);
    const guest = await (await Watching.start({ folders: [folder], hybridVsockPaths })).machine('g1');
    // There is nothing in it that could listen.
    await expect(guest.openChannel()).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining(`vsock port 837 (${vsock.hybridPath}): no frontend listens`),
    });
    await bare.end();
  });

  test('a controller without a free port', async () => {
    const port = ['-chardev', 'null,id=c', '-device', 'virtserialport,chardev=c,name=other'];
    qemu('q35', 'g1', ['-device', 'virtio-serial-pci,max_ports=2', ...port]);
    const guest = await (await Watching.start()).machine('g1');
    await expect(guest.openChannel()).rejects.toMatchObject({
      code: 'PROVIDER',
      message: expect.stringContaining(
        'g1: the machine has no free port on its virtio-serial controllers, nor a free PCI Express root port to plug one in, and no vsock device',
      ),
    });
  });

  test.each([
    ['pc', []],
    ['q35', rootPorts],
  ] as const)('%s: no controller, and a place for one', async (type, more) => {
    qemu(type, 'g1', more);
    const before = await Watching.start();
    const channel = await (await before.machine('g1')).openChannel();
    channel.close();
    await before.provider.stop();
    // A service that was restarted takes the same.
    const again = await (await (await Watching.start()).machine('g1')).openChannel();
    again.close();
    expect(again.description).toBe(channel.description);
  });

  test('a full bus', async () => {
    const slots = Array.from({ length: 30 }, () => ['-device', 'pci-testdev']).flat();
    qemu('pc', 'g1', slots);
    const guest = await (await Watching.start()).machine('g1');
    await expect(guest.openChannel()).rejects.toMatchObject({
      code: 'PROVIDER',
      message: expect.stringMatching(
        /^g1: the machine has no virtio-serial controller, nor takes one \(.+\), and no vsock device/,
      ),
    });
  });

  test('a full controller and a second one: the second', async () => {
    const full = [
      '-device',
      'virtio-serial-pci,max_ports=2',
      '-chardev',
      'null,id=c',
      '-device',
      'virtserialport,chardev=c',
    ];
    qemu('pc', 'g1', [...full, '-device', 'virtio-serial-pci']);
    const guest = await (await Watching.start()).machine('g1');
    (await guest.openChannel()).close();
  });

  test.each([
    ['no root port', ['-device', 'virtio-serial-pci'], 'the machine has none'],
    [
      'only a taken one',
      ['-device', 'pcie-root-port,id=rp', '-device', 'virtio-serial-pci,bus=rp'],
      'the machine has only taken ones (1)',
    ],
  ])('q35 with %s', async (_, more, sentence) => {
    qemu('q35', 'g1', more);
    const guest = await (await Watching.start()).machine('g1');
    await expect(guest.provideRegion(mib)).rejects.toMatchObject({
      code: 'PROVIDER',
      message: `g1: a region needs a free PCI Express root port and ${sentence}: start it with a spare one ("-device pcie-root-port,id=spare,chassis=40"), or in libvirt with <controller type='pci' model='pcie-root-port'/>`,
    });
    expect(readdirSync(regionDirectory)).toEqual([]);
    await guest.withdrawRegion();
  });

  test('a large region: the root port that has room for it is taken', async () => {
    const roomy = ['-device', 'pcie-root-port,id=rp2,chassis=3,pref64-reserve=64M'];
    qemu('q35', 'g1', [...shapes.q35, ...roomy, '-qmp', `unix:${join(folder, 'second')},server=on,wait=off`]);
    const guest = await (await Watching.start()).machine('g1');
    await guest.provideRegion(16 * mib);
    const monitor = await QmpClient.connect(join(folder, 'second'));
    onTestFinished(() => monitor.close());
    const where = { path: '/machine/peripheral/vesper-ivshmem', property: 'parent_bus' };
    expect(await monitor.execute('qom-get', where)).toBe('/machine/peripheral/rp2/rp2');
  });

  test('a region that is no power of two is refused before QEMU could abort', async () => {
    const bare = qemu('pc', 'g1');
    const guest = await (await Watching.start()).machine('g1');
    await expect(guest.provideRegion(3 * mib)).rejects.toMatchObject({ code: 'USAGE' });
    await guest.provideRegion(mib);
    expect(bare.running).toBe(true);
  });
});

describe('a port that the owner of the machine configured', () => {
  test('is used, and stays on release', async () => {
    const socket = join(folder, 'own.port');
    const chardev = `socket,id=own,path=${socket},server=on,wait=off`;
    const port = ['-chardev', chardev, '-device', 'virtserialport,chardev=own,name=org.vesper.probe.0'];
    qemu('pc', 'g1', ['-device', 'virtio-serial-pci', ...port]);
    const guest = await (await Watching.start()).machine('g1');
    const channel = await guest.openChannel();
    expect(channel.description).toContain(`(${socket})`);
    channel.close();
    await guest.release();
    (await guest.openChannel()).close();
    expect(existsSync(runtimeDirectory)).toBe(false);
  });

  test('that is no listening socket is an error that says so', async () => {
    const port = ['-chardev', 'null,id=own', '-device', 'virtserialport,chardev=own,name=org.vesper.probe.0'];
    qemu('pc', 'g1', ['-device', 'virtio-serial-pci', ...port]);
    const guest = await (await Watching.start()).machine('g1');
    await expect(guest.openChannel()).rejects.toMatchObject({
      code: 'PROVIDER',
      message: expect.stringContaining(
        'its character device is "null": it has to be a listening unix socket',
      ),
    });
  });
});

test.runIf(process.getuid?.() === 0)(
  'a QEMU of another user is given the files it has to open, and no others',
  async () => {
    const nobody = 65534;
    chmodSync(folder, 0o777);
    qemu('pc', 'g1', shapes.pc, { uid: nobody });
    const guest = await (await Watching.start()).machine('g1');
    const channel = await guest.openChannel();
    channel.close();
    const region = await guest.provideRegion(mib);
    // Handed over as open files.
    for (const path of [region.path, `${region.path}.doorbell`]) {
      const { uid, mode } = statSync(path);
      expect({ uid, mode: mode & 0o777 }).toEqual({ uid: 0, mode: 0o600 });
    }
    const [, socket] = /\((.*)\)$/.exec(channel.description) ?? [];
    expect(statSync(dirname(socket as string))).toMatchObject({ uid: nobody, mode: 0o40700 });
  },
);

describe('finding machines', () => {
  test('one that starts later, in a folder that is made later; killed and started again it is the same machine', async () => {
    const later = join(folder, 'later');
    const watching = await Watching.start({ folders: [later] });
    expect(watching.found).toEqual([]);
    mkdirSync(later);
    const path = join(later, 'web1.qmp');
    const first = new BareQemu({ qmpPath: path });
    onTestFinished(() => first.end());
    const guest = await watching.machine('web1');
    expect(guest).toMatchObject({
      provider: 'qemu',
      state: 'paused',
      uuid: expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    await first.end('SIGKILL');
    await expect.poll(() => guest.state).toBe('stopped');
    const second = new BareQemu({ qmpPath: path });
    onTestFinished(() => second.end());
    await expect.poll(() => watching.found.length, { timeout: 10_000 }).toBe(2);
    expect(watching.found[1]).toBe(guest);
    expect(guest.state).toBe('paused');
  });

  test('one of which nothing is left in the folder is forgotten after a while, or one in whose place another came', async () => {
    const uuid = (digit: number) => ['-uuid', `${`${digit}`.repeat(8)}-0000-4000-8000-000000000000`];
    const watching = await Watching.start({ folders: [folder], removedKeptMs: 300 });
    const removed = () => watching.events.filter(({ kind }) => kind === 'removed').map(({ guest }) => guest);
    const [quits, killed, replaced] = [qemu('pc', 'g1'), qemu('pc', 'g2'), qemu('pc', 'g3', uuid(1))];
    for (const name of ['g1', 'g2', 'g3']) await watching.machine(name);

    await quits.end('SIGTERM');
    await expect.poll(removed).toEqual(['g1']);
    expect(existsSync(join(folder, 'g1.qmp'))).toBe(false);

    await replaced.end();
    qemu('pc', 'g3', uuid(2));
    await expect.poll(removed).toEqual(['g1', 'g3']);
    const { uuid: now } = await watching.machine('g3');
    expect(now).toMatch(/^2/);

    await killed.end();
    await expect.poll(() => watching.events.at(-1)).toMatchObject({ guest: 'g2', kind: 'stopped' });
    // Its socket is still there: it is known.
    rmSync(join(folder, 'g2.qmp'));
    await expect.poll(removed).toEqual(['g1', 'g3', 'g2']);
    // And found like any other should it come back.
    const before = watching.found.length;
    qemu('pc', 'g1');
    await expect.poll(() => watching.found.length).toBeGreaterThan(before);
  });

  test('name and UUID as QEMU has them; a name of one’s own goes before', async () => {
    const uuid = 'B0A9C8D7-1234-4321-8888-0123456789AB';
    qemu('pc', 'g1', ['-uuid', uuid]);
    const monitors = [{ path: join(folder, 'g1.qmp'), name: 'mine' }];
    const guest = await (await Watching.start({ monitors })).machine('mine');
    expect(guest.uuid).toBe(uuid.toLowerCase());
  });

  test('a monitor that serves somebody else is named as the problem, delays nobody, and is found when it is free', async () => {
    qemu('pc', 'busy');
    qemu('pc', 'free');
    const path = join(folder, 'busy.qmp');
    await expect.poll(() => existsSync(path), { timeout: 10_000 }).toBe(true);
    const other = connect(path).resume();
    onTestFinished(() => void other.destroy());
    await new Promise((resolve) => other.once('data', resolve));

    const watching = await Watching.start({ folders: [folder], connectLimitMs: 300 });
    await watching.machine('free', 2_000);
    await expect
      .poll(() => watching.provider.problems().get(path))
      .toMatch(/no greeting from QEMU within 300 ms: a monitor serves one client at a time/);
    other.destroy();
    await watching.machine('busy');
    expect(watching.provider.problems().size).toBe(0);
  });

  test('a QEMU that is stopped answers nothing: an error in time, and others go on', async () => {
    const stuck = qemu('pc', 'stuck');
    qemu('pc', 'free');
    const watching = await Watching.start({ folders: [folder], commandLimitMs: 300 });
    const [hanging, free] = [await watching.machine('stuck'), await watching.machine('free')];
    stuck.child.kill('SIGSTOP');
    const refused = expect(hanging.openChannel()).rejects.toMatchObject({ code: 'TIMEOUT' });
    (await free.openChannel()).close();
    await refused;
    stuck.child.kill('SIGCONT');
    (await hanging.openChannel()).close();
  });

  test('a QEMU that is told to quit', async () => {
    const bare = qemu('pc', 'g1');
    const watching = await Watching.start();
    const guest = await watching.machine('g1');
    await guest.provideRegion(mib);
    await bare.end('SIGTERM');
    await expect
      .poll(() => watching.events)
      .toEqual([{ guest: 'g1', kind: 'stopped', reason: 'ended by a signal to QEMU' }]);
    await guest.release();
    expect(readdirSync(regionDirectory)).toEqual([]);
  });
});
