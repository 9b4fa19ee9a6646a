// SPDX-License-Identifier: Apache-2.0

/**
 * `node test/nested.ts`: VESPER over the host kernel's own vsock, which takes a machine with vhost_vsock. So there is one: an outer guest,
 * emulated, in which the real service runs and, emulated once more, a guest with a vhost-vsock-pci device. Takes minutes.
 */

import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { guestImage } from '../host/demo/image.ts';
import { Machine } from '../host/demo/machine.ts';
import { scratchDirectory } from '../host/kernel/cache.ts';
import { runCommand } from '../host/kernel/command.ts';
import { fetchKernel } from '../host/kernel/fetch.ts';
import { projectRoot } from '../host/kernel/project.ts';

const kernelKey = '6.1';
const limitMs = 45 * 60_000;
const diskMib = 1024;
/** What QEMU reads beside its libraries: firmware, and its emulator where that is a module. */
const firmware = ['/usr/share/seabios', '/usr/share/qemu'];
const emulator = '/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so';

/** Of node_modules what the program needs when it runs. */
function runtimePackages(): readonly string[] {
  const lock = JSON.parse(readFileSync(join(projectRoot, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly dev?: boolean }>>;
  };
  return Object.entries(lock.packages).flatMap(([path, { dev }]) => (path === '' || dev ? [] : [path]));
}

/** The libraries that the dynamic linker loads for a program, itself included. */
async function librariesOf(program: string): Promise<readonly string[]> {
  const { stdout } = await runCommand('ldd', [program], { package: 'libc-bin' });
  return [...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path as string);
}

/** The outer guest's disk: Node, QEMU, the program as it was built, and a kernel with an initramfs for the inner guest. */
async function makeDisk(scratch: string): Promise<string> {
  const root = join(scratch, 'root');
  const put = (from: string, to: string) => {
    const target = join(root, to);
    mkdirSync(dirname(target), { recursive: true });
    if (existsSync(from)) cpSync(from, target, { recursive: true, dereference: true });
  };
  for (const folder of ['proc', 'sys', 'dev', 'tmp', 'bin'])
    mkdirSync(join(root, folder), { recursive: true });

  const node = join(projectRoot, 'node_modules/node/bin/node');
  const { stdout: qemu } = await runCommand('which', ['qemu-system-x86_64'], {
    package: 'qemu-system-x86',
  });
  const addons = ['relay', 'socket', 'vsock'].map((name) => join(projectRoot, `build/native/${name}.node`));
  const libraries = await Promise.all([node, qemu.trim(), ...addons].map(librariesOf));
  for (const library of new Set(libraries.flat())) put(library, library);
  put('/bin/busybox', 'bin/busybox');
  put(qemu.trim(), 'usr/bin/qemu-system-x86_64');
  for (const path of [...firmware, emulator]) put(path, path);

  const { release, image } = await fetchKernel(kernelKey);
  const parts = [
    'package.json',
    'dist',
    'build/native',
    `build/${release}`,
    'test/nested',
    ...runtimePackages(),
  ];
  for (const part of [...parts, 'node_modules/node/bin/node'])
    put(join(projectRoot, part), join('vesper', part));
  const modules = ['virtio_pci', 'vmw_vsock_virtio_transport'];
  put(await guestImage(await fetchKernel(kernelKey), { modules }), 'inner/initramfs');
  put(image, 'inner/vmlinuz');

  const disk = join(scratch, 'disk');
  const arguments_ = ['-q', '-t', 'ext4', '-O', '^has_journal', '-d', root, disk, `${diskMib}M`];
  await runCommand('/sbin/mke2fs', arguments_, { package: 'e2fsprogs' });
  rmSync(root, { recursive: true });
  return disk;
}

/** Shows what the outer guest says on its console. */
function follow(machine: Machine): () => void {
  let shown = 0;
  const show = () => {
    const lines = machine.console().split(/\r?\n/).slice(0, -1);
    for (const line of lines.slice(shown)) {
      const text = /NESTED (.*)/.exec(line)?.[1];
      if (text !== undefined) process.stdout.write(`  ${text}\n`);
    }
    shown = lines.length;
  };
  const timer = setInterval(show, 500);
  return () => {
    clearInterval(timer);
    show();
  };
}

async function main(): Promise<boolean> {
  const scratch = scratchDirectory(tmpdir(), 'vesper-nested-');
  try {
    process.stdout.write('making the disk of the outer guest\n');
    const disk = await makeDisk(scratch);
    await using machine = await Machine.boot({
      kernel: kernelKey,
      memoryMib: 2048,
      // Two: with one the emulator is given little memory for its translations, and QEMU and Node in it need much.
      cpus: 2,
      virtioSerial: false,
      frontend: false,
      modules: ['virtio_pci', 'virtio_blk', 'vhost_vsock'],
      qemuArguments: [
        ...['-drive', `file=${disk},format=raw,if=none,id=disk`],
        ...['-device', 'virtio-blk-pci,drive=disk'],
      ],
      bootTimeoutMs: 5 * 60_000,
    });
    const finish = follow(machine);
    const mounts = [
      'mkdir -p /mnt && mount -t ext4 /dev/vda /mnt',
      ...['proc', 'sysfs', 'devtmpfs'].map(
        (type, index) => `mount -t ${type} none /mnt/${['proc', 'sys', 'dev'][index]}`,
      ),
      'mkdir -p /mnt/dev/shm && mount -t tmpfs none /mnt/dev/shm && mount -t tmpfs none /mnt/tmp',
    ];
    await machine.check(mounts.join(' && '), { timeoutMs: 60_000 });
    const inside = 'chroot /mnt /bin/busybox sh /vesper/test/nested/inside.sh';
    try {
      return (await machine.run(inside, { timeoutMs: limitMs })).status === 0;
    } finally {
      finish();
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

const passed = await main();
process.stdout.write(passed ? 'nested: passed\n' : 'nested: FAILED\n');
process.exitCode = passed ? 0 : 1;
