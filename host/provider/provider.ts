// SPDX-License-Identifier: Apache-2.0

/** The only VMM-dependent seam: how to find guests and give them a channel and shared memory. */

import type { Channel } from '../channel/channel.ts';
import type { RegionRam } from '../relay/native.ts';

export type MachineState = 'running' | 'paused' | 'stopped';

/** What happened to a guest's machine, as the hypervisor tells it. */
export type LifecycleEvent =
  | { readonly kind: 'started' }
  | { readonly kind: 'paused' }
  | { readonly kind: 'resumed' }
  /** The guest was reset or reboots. */
  | { readonly kind: 'rebooted' }
  /** The guest's kernel panicked (a pvpanic device told). */
  | { readonly kind: 'panicked' }
  /** The guest's kernel panicked and writes a crash dump (a pvpanic device told, to libvirt or to us). */
  | { readonly kind: 'dumping' }
  /**
   * The machine is gone; `reason` for people: "shut down by the guest", "killed", … `elsewhere`: its guest goes on in another, now
   * or when it is restored.
   */
  | { readonly kind: 'stopped'; readonly reason: string; readonly elsewhere?: true }
  /** Long after `stopped`, and nobody is expected to start it again: where it was found it is no longer named. */
  | { readonly kind: 'removed' };

/** How a guest wakes the host without a frame: it writes to a register of the region's device, from any context. */
export interface ProvidedDoorbell {
  /** A named pipe: bytes appear in it when the guest rings. */
  readonly path: string;
  /** What the guest writes to the register; not 0. */
  readonly value: number;
}

/** A region given to a guest: a file both sides map. */
export interface ProvidedRegion {
  /** Open this to map it; with `ram` what messages call it. */
  readonly path: string;
  /** It lies in the guest's own memory. */
  readonly ram?: RegionRam | undefined;
  readonly bytes: number;
  /** 16 random bytes stamped into its header: how the frontend tells which region it is. */
  readonly token: Uint8Array;
  /** Undefined where the device has none: the guest sends frames. */
  readonly doorbell?: ProvidedDoorbell | undefined;
  /** The guest had overwritten the stamp: a frontend that booted since does not know the region. */
  readonly restamped?: true;
}

/** The RAM of a machine, in a file that other processes can map. */
export interface SharedRam {
  /** For messages. */
  readonly description: string;
  readonly fd: number;
  /** Where a piece of guest physical memory lies in the file; undefined: not in it, or not in one piece. */
  offsetOf(address: bigint, bytes: bigint): number | undefined;
  close(): void;
}

export interface MachineDescription {
  readonly name: string;
  /** Canonical lower-case UUID. */
  readonly uuid: string;
  readonly provider: string;
}

/** A probe that a guest's own description asks for. */
export interface AskedProbe {
  readonly name: string;
  readonly parameters: Readonly<Record<string, string>>;
  /** Where that stands, for people. */
  readonly where: string;
}

/** One guest's machine. Every method has a time limit and throws PROVIDER, UNREACHABLE or TIMEOUT. */
export interface Machine extends MachineDescription {
  readonly state: MachineState;
  /** Nothing is to be plugged into it before a probe is wanted, and nothing left when none is any more. */
  readonly onDemand?: boolean;
  /** Something of ours is plugged into it, by whatever service. */
  readonly inUse?: boolean;
  /** Opens the control channel; hot-plugs the port where it is missing. */
  openChannel(): Promise<Channel>;
  /** Bytes of the largest region that the guest is sure to find a place for while it runs. */
  regionRoom(): Promise<number>;
  /**
   * Makes the region's file (0600), stamps header and token, and hot-plugs it. Where one of ours is there already (a former
   * service's) it is returned as it is, not stamped anew.
   */
  provideRegion(bytes: number): Promise<ProvidedRegion>;
  /** Unplugs the region and removes its file; resolves when the guest let go. No-op where there is none. */
  withdrawRegion(): Promise<void>;
  /**
   * A region's file (0600), stamped, that no device shows to the guest: the host keeps in it what the guest sends. Where a former
   * service left one it is returned as it is.
   */
  provideShadow(bytes: number): Promise<ProvidedRegion>;
  /** Opens the machine's RAM; throws PROVIDER with the reason where it is not shared. The caller closes it. */
  sharedRam(): Promise<SharedRam>;
  /**
   * The beginning of a file of the guest, by the QEMU guest agent in it. Throws UNREACHABLE or TIMEOUT where none answers, and REFUSED
   * with the guest's words where it cannot be read.
   */
  readGuestFile?(path: string, mostBytes: number): Promise<Uint8Array>;
  /** Unplugs everything VESPER plugged: the guest's hardware is as it was. Of a machine that is gone, removes its files. */
  release(): Promise<void>;
}

export interface ProviderEvents {
  /** A machine was found, or came back after it was stopped: then it may be the same object. */
  machineFound(machine: Machine): void;
  lifecycle(machine: Machine, event: LifecycleEvent): void;
  /** What a guest's description asks for from now on; told before the guest is found, and when it changes. */
  asked?(guest: Pick<MachineDescription, 'name' | 'uuid'>, probes: readonly AskedProbe[]): void;
}

export interface Provider {
  readonly name: string;
  /** Finds machines and watches them until stop(). */
  start(events: ProviderEvents): Promise<void>;
  /** Where machines are expected and cannot be looked after, and why, for people; by the name of the place (a socket, a URI). */
  problems?(): ReadonlyMap<string, string>;
  /** What else may be the case where no machine is called `name`, for people. */
  absence?(name: string): string;
  /** Lets go of the hypervisor; machines and what was plugged stay as they are. */
  stop(): Promise<void>;
}
