// SPDX-License-Identifier: Apache-2.0

import type { KernelKey } from '../kernel/release.ts';
import type { Accelerator } from './accelerator.ts';
import { defaultGuestModules, type ImageOptions } from './image.ts';
import type { InitMode, MachineShape, MachineType, SharedMemory, TcgThreads } from './qemu-arguments.ts';

export interface MachineOptions extends ImageOptions {
  /** '6.1' unless given. */
  readonly kernel?: KernelKey;
  /** 'pc' unless given. */
  readonly machine?: MachineType;
  /** 256 unless given. */
  readonly memoryMib?: number;
  /** 1 unless given. */
  readonly cpus?: number;
  readonly init?: InitMode;
  /** Which of `modules` init loads, before the frontend; all unless given. */
  readonly loadModules?: readonly string[];
  /** The kernel's `panic=`; 0 (stay dead) unless given. */
  readonly panic?: number;
  /** More for the kernel's command line; `vesper.<parameter>=<value>` reaches the frontend. */
  readonly append?: string;
  /** RAM that other processes can map; `true`: in a memfd. */
  readonly sharedMemory?: boolean | SharedMemory;
  /** A virtio-serial controller, as libvirt guests have it; true unless given. */
  readonly virtioSerial?: boolean;
  readonly qemuArguments?: readonly string[];
  /** Chosen by a boot probe unless given. */
  readonly accelerator?: Accelerator;
  /** How TCG runs several processors: 'single' (safe) unless given; storms that shall really collide want 'multi'. */
  readonly tcgThreads?: TcgThreads;
  /**
   * TCG's buffer of translated code. A small one unless given: a guest that runs for minutes fills it again and again, and each
   * time all that it runs is translated anew, which takes a tenth of a second.
   */
  readonly tcgBufferMib?: number;
  /** How long a boot may take; 60 s unless given. */
  readonly bootTimeoutMs?: number;
  /** QEMU may outlive this process: `detach` leaves it running. */
  readonly keep?: boolean;
  readonly progress?: (line: string) => void;
}

/** The options with all that is left out filled in. */
export function shapeOf(options: MachineOptions): MachineShape {
  const frontend = options.frontend === false ? [] : ['vesper'];
  return {
    machine: options.machine ?? 'pc',
    memoryMib: options.memoryMib ?? 256,
    cpus: options.cpus ?? 1,
    sharedMemory: options.sharedMemory === true ? 'memfd' : (options.sharedMemory ?? false),
    virtioSerial: options.virtioSerial ?? true,
    tcgThreads: options.tcgThreads ?? 'single',
    tcgBufferMib: options.tcgBufferMib,
    init: options.init ?? 'shell',
    loadModules: [...(options.loadModules ?? options.modules ?? defaultGuestModules), ...frontend],
    panic: options.panic ?? 0,
    append: options.append ?? '',
    qemuArguments: options.qemuArguments ?? [],
  };
}
