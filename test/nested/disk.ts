// SPDX-License-Identifier: Apache-2.0

/** The disk of the outer guest of test/nested.ts. */

import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { guestImage } from '../../host/demo/image.ts';
import { VesperError } from '../../host/error.ts';
import { runCommand } from '../../host/kernel/command.ts';
import { fetchKernel } from '../../host/kernel/fetch.ts';
import { projectRoot } from '../../host/kernel/project.ts';
import type { KernelKey } from '../../host/kernel/release.ts';
import { debianTree } from '../harness/debian-tree.ts';

const diskMib = 1024;
const libraryFolder = 'usr/lib/x86_64-linux-gnu';
const qemu = '/usr/bin/qemu-system-x86_64';
const libvirtd = '/usr/sbin/libvirtd';
const libvirtDriver = `/${libraryFolder}/libvirt/connection-driver/libvirt_driver_qemu.so`;
/** What they read beside their libraries: firmware, the emulator where that is a module, the processors that there are. */
const data = [
  '/usr/share/seabios',
  '/usr/share/qemu',
  `/${libraryFolder}/qemu/accel-tcg-x86_64.so`,
  '/usr/share/libvirt/cpu_map',
];

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

/** virsh, which nothing of the project needs otherwise. */
const clientPackages = ['libvirt-clients', 'libreadline8'];

/**
 * A file with the disk, in `scratch`: Node, QEMU, libvirtd with virsh, the program as it was built, and a kernel with an initramfs for
 * the inner guests.
 */
export async function makeDisk(scratch: string, kernelKey: KernelKey): Promise<string> {
  const root = join(scratch, 'root');
  const put = (from: string, to: string) => {
    const target = join(root, to);
    mkdirSync(dirname(target), { recursive: true });
    if (existsSync(from)) cpSync(from, target, { recursive: true, dereference: true });
  };
  for (const folder of ['proc', 'sys', 'dev', 'tmp', 'bin'])
    mkdirSync(join(root, folder), { recursive: true });

  const node = join(projectRoot, 'node_modules/node/bin/node');
  for (const [program, name] of [
    [qemu, 'qemu-system-x86'],
    [libvirtd, 'libvirt-daemon'],
    [libvirtDriver, 'libvirt-daemon-driver-qemu'],
  ] as const)
    if (!existsSync(program)) throw new VesperError('HOST', `${program} is missing: apt-get install ${name}`);
  const clients = await debianTree('clients', 'bookworm-1', clientPackages);
  const virsh = join(clients, 'usr/bin/virsh');
  const addons = ['relay', 'socket', 'vsock', 'libvirt'].map((name) =>
    join(projectRoot, `build/native/${name}.node`),
  );
  const programs = [node, qemu, libvirtd, libvirtDriver, virsh, ...addons];
  const libraries = await Promise.all(programs.map(librariesOf));
  for (const library of new Set(libraries.flat())) put(library, library);
  put('/bin/busybox', 'bin/busybox');
  put(virsh, 'usr/bin/virsh');
  put(join(clients, libraryFolder), libraryFolder);
  for (const path of [qemu, libvirtd, libvirtDriver, ...data]) put(path, path);

  const kernel = await fetchKernel(kernelKey);
  const { release, image } = kernel;
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
  put(await guestImage(kernel, { modules }), 'inner/initramfs');
  put(image, 'inner/vmlinuz');

  const disk = join(scratch, 'disk');
  const arguments_ = ['-q', '-t', 'ext4', '-O', '^has_journal', '-d', root, disk, `${diskMib}M`];
  await runCommand('/sbin/mke2fs', arguments_, { package: 'e2fsprogs' });
  rmSync(root, { recursive: true });
  return disk;
}
