// SPDX-License-Identifier: Apache-2.0

/**
 * `node test/nested.ts`: VESPER over the host kernel's own vsock, which takes a machine with vhost_vsock. So there is one: an outer guest,
 * emulated, in which the real service runs and, emulated once more, its guests: a QEMU with a vhost-vsock-pci device, then a domain of a
 * libvirtd that has no such device yet. `node test/nested.ts libvirt` does that part only. Takes minutes.
 */

import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { Machine } from '../host/demo/machine.ts';
import { scratchDirectory } from '../host/kernel/cache.ts';
import { makeDisk } from './nested/disk.ts';

const kernelKey = '6.1';
const limitMs = 45 * 60_000;
/** In the order they run in; each is a script in test/nested. */
const parts = {
  qemu: 'a QEMU with vhost-vsock-pci: its session, a probe, its event',
  libvirt: 'a domain of libvirtd: a vsock device is plugged in, and out again',
} as const;

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

type Part = keyof typeof parts;

/** Which of `wanted` failed. */
async function run(wanted: readonly Part[]): Promise<readonly Part[]> {
  const scratch = scratchDirectory(tmpdir(), 'vesper-nested-');
  try {
    process.stdout.write('making the disk of the outer guest\n');
    const disk = await makeDisk(scratch, kernelKey);
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
    const setUp = 'chroot /mnt /bin/busybox --install -s /bin';
    await machine.check(setUp, { timeoutMs: 60_000 });
    try {
      const failed: Part[] = [];
      for (const part of wanted) {
        process.stdout.write(`${part}: ${parts[part]}\n`);
        const script = `chroot /mnt /bin/sh /vesper/test/nested/${part}.sh`;
        if ((await machine.run(script, { timeoutMs: limitMs })).status !== 0) failed.push(part);
        await machine.run('rm -rf /mnt/tmp/* /mnt/dev/shm/*', { timeoutMs: 60_000 });
      }
      return failed;
    } finally {
      finish();
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

const all = Object.keys(parts) as readonly Part[];
const asked = process.argv.slice(2);
const unknown = asked.find((part) => !(part in parts));
if (unknown !== undefined) {
  process.stderr.write(`nested: there is no part ${unknown}: ${all.join(', ')}\n`);
  process.exit(2);
}
const wanted = asked.length === 0 ? all : all.filter((part) => asked.includes(part));
const failed = await run(wanted);
for (const part of wanted)
  process.stdout.write(`nested: ${part}: ${failed.includes(part) ? 'FAILED' : 'passed'}\n`);
process.exitCode = failed.length === 0 ? 0 : 1;
