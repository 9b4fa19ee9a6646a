// SPDX-License-Identifier: Apache-2.0

import { join } from 'node:path';
import type { Accelerator } from './accelerator.ts';

export type MachineType = 'pc' | 'q35';

export type SharedMemory = 'memfd' | 'file';

/** How PID 1 spends its life: `shell` reaps and keeps a shell; `asleep` is the only process, in pause() for ever. */
export type InitMode = 'shell' | 'asleep';

/**
 * How TCG runs several processors. With a thread each, a processor may run a stale translation of an instruction that
 * another one patched: an int3 that is no more (QEMU 7.2; 1 boot in 20 of 6.12, and hangs while probes are armed and
 * disarmed). `single` takes turns in one thread: slower, and patching is safe.
 */
export type TcgThreads = 'single' | 'multi';

export interface MachineShape {
  readonly machine: MachineType;
  readonly memoryMib: number;
  readonly cpus: number;
  readonly tcgThreads: TcgThreads;
  /** TCG's buffer of translated code, in MiB; undefined: as `accelerator` below has it. */
  readonly tcgBufferMib: number | undefined;
  /** RAM that other processes can map, which guest-page relays and checkpoints need: in a memfd, or in a file. */
  readonly sharedMemory: false | SharedMemory;
  readonly virtioSerial: boolean;
  readonly init: InitMode;
  /** Modules that init loads, in this order. */
  readonly loadModules: readonly string[];
  /** The kernel's `panic=`: 0 stays dead, −1 reboots at once, n reboots after n seconds. */
  readonly panic: number;
  /** More for the kernel's command line. */
  readonly append: string;
  /** More arguments for QEMU. */
  readonly qemuArguments: readonly string[];
}

export interface MachineIdentity {
  readonly name: string;
  readonly uuid: string;
  readonly directory: string;
  readonly kernelImage: string;
  readonly initramfs: string;
  readonly accelerator: Accelerator;
}

/** The names of a machine's sockets and files in its folder. */
export const machineFiles = {
  /** For VESPER's provider. */
  qmp: 'qmp.sock',
  /** For the harness. */
  monitor: 'monitor.sock',
  console: 'console.sock',
  consoleLog: 'console.log',
  shell: 'shell.sock',
  /** For people: `socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:terminal.sock`. */
  terminal: 'terminal.sock',
} as const;

/**
 * QEMU's command line for a guest as its owner would have made it: of VESPER there is nothing in it. The one
 * virtio-serial controller is what every libvirt guest has for its agent.
 */
export function qemuArguments(shape: MachineShape, identity: MachineIdentity): string[] {
  const file = (name: keyof typeof machineFiles) => join(identity.directory, machineFiles[name]);
  const ram = shape.sharedMemory ? ',memory-backend=ram' : '';
  return [
    ...['-name', `guest=${identity.name}`, '-uuid', identity.uuid],
    ...['-machine', `${shape.machine}${ram}`, '-accel', accelerator(shape, identity.accelerator)],
    ...['-cpu', identity.accelerator === 'kvm' ? 'host' : 'max'],
    ...['-smp', `${shape.cpus}`, '-m', `${shape.memoryMib}M`],
    ...(shape.sharedMemory
      ? ['-object', `${memoryBackend(shape.sharedMemory, identity)},id=ram,share=on,size=${shape.memoryMib}M`]
      : []),
    ...['-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-kernel', identity.kernelImage, '-initrd', identity.initramfs, '-append', kernelCommandLine(shape)],
    ...['-chardev', `socket,id=console,path=${file('console')},logfile=${file('consoleLog')}`],
    ...['-serial', 'chardev:console'],
    ...['-chardev', `socket,id=shell,path=${file('shell')}`, '-serial', 'chardev:shell'],
    ...['-serial', `unix:${file('terminal')},server=on,wait=off`],
    ...['-qmp', `unix:${file('qmp')},server=on,wait=off`],
    ...['-chardev', `socket,id=monitor,path=${file('monitor')}`, '-mon', 'chardev=monitor,mode=control'],
    ...controllers(shape),
    ...shape.qemuArguments,
  ];
}

/** QEMU makes a file of its own in a folder, and unlinks it: what is left of it are open descriptors. */
const memoryBackend = (kind: SharedMemory, { directory }: MachineIdentity): string =>
  kind === 'memfd' ? 'memory-backend-memfd' : `memory-backend-file,mem-path=${directory}`;

function accelerator(shape: MachineShape, kind: Accelerator): string {
  if (kind === 'kvm') return 'kvm';
  const threads = `thread=${shape.tcgThreads}`;
  // After a reset every write to a page that still holds old translations is slow, for seconds; with a small buffer
  // few are left. Several processors translate more and would flush it all the time.
  const bufferMib = shape.tcgBufferMib ?? (shape.cpus === 1 ? 16 : undefined);
  return bufferMib === undefined ? `tcg,${threads}` : `tcg,${threads},tb-size=${bufferMib}`;
}

function controllers({ machine, virtioSerial }: MachineShape): string[] {
  const serial = (bus: string) =>
    virtioSerial ? ['-device', `virtio-serial-pci,id=virtio-serial0${bus}`] : [];
  if (machine === 'pc') return serial('');
  // As libvirt lays q35 out: each device on a root port, and spare ports for what is plugged in later.
  const ports = [1, 2, 3, 4, 5].flatMap((n) => {
    const first = n === 1 ? ',multifunction=on' : '';
    return [
      '-device',
      `pcie-root-port,id=pci.${n},chassis=${n},port=${n + 15},bus=pcie.0,addr=0x2.${n - 1}${first}`,
    ];
  });
  return [...ports, ...serial(',bus=pci.1')];
}

function kernelCommandLine(shape: MachineShape): string {
  return [
    // The timer check fails when the host is too busy to emulate the timer in time; under KVM it is left out as well.
    'console=ttyS0 sysrq_always_enabled reboot=k no_timer_check',
    `panic=${shape.panic}`,
    `vesper_init=${shape.init}`,
    `vesper_modules=${shape.loadModules.join(',')}`,
    shape.append,
  ]
    .join(' ')
    .trim();
}
