// SPDX-License-Identifier: Apache-2.0

/** One guest that is a domain of libvirt. */

import type { Channel } from '../../channel/channel.ts';
import { connectUnixSocket } from '../../channel/unix-socket.ts';
import { connectVsock } from '../../channel/vsock.ts';
import { VesperError } from '../../error.ts';
import { portName } from '../../wire/message.ts';
import type { Machine, MachineState, ProvidedRegion, SharedRam } from '../provider.ts';
import type { Hardware } from './hardware.ts';
import type { Lifecycle } from './lifecycle.ts';
import type { GuestName } from './link.ts';

export const providerName = 'libvirt';

/** A guest has to find a device that is plugged in, to load its driver, and to listen there. */
const freshLimitMs = 10_000;
const freshPauseMs = 50;

/** Calls until somebody listens: before, the kernel gives a call up after 2 s, or the guest refuses it. */
async function connectFresh(cid: number): Promise<Channel> {
  const deadline = performance.now() + freshLimitMs;
  for (;;) {
    try {
      return await connectVsock(cid);
    } catch (thrown) {
      if (performance.now() > deadline || !(thrown instanceof VesperError) || thrown.code !== 'UNREACHABLE')
        throw thrown;
    }
    await new Promise((next) => setTimeout(next, freshPauseMs));
  }
}

/** Stays the same object when its domain ends and starts again. */
export class LibvirtMachine implements Machine {
  readonly name: string;
  readonly uuid: string;
  readonly provider = providerName;
  /** libvirt has all of the host's machines: those that nobody wants anything of are left alone. */
  readonly onDemand = true;
  #id: number;
  #hardware: Hardware;
  #lifecycle: Lifecycle;

  constructor({ name, uuid }: GuestName, id: number, hardware: Hardware, lifecycle: Lifecycle) {
    this.name = name;
    this.uuid = uuid;
    this.#id = id;
    this.#hardware = hardware;
    this.#lifecycle = lifecycle;
  }

  get state(): MachineState {
    return this.#lifecycle.state;
  }

  get inUse(): boolean {
    return this.#hardware.plugged;
  }

  get lifecycle(): Lifecycle {
    return this.#lifecycle;
  }

  get hardware(): Hardware {
    return this.#hardware;
  }

  /** libvirt's number of this run: another one at each start. */
  get id(): number {
    return this.#id;
  }

  /** It was started anew; what was plugged into its former run is gone, or was restored with it. */
  came(id: number, hardware: Hardware, lifecycle: Lifecycle): void {
    this.#hardware.machineGone();
    this.#id = id;
    this.#hardware = hardware;
    this.#lifecycle = lifecycle;
  }

  async openChannel(): Promise<Channel> {
    const route = await this.#there().provideRoute();
    if ('cid' in route) return route.fresh ? connectFresh(route.cid) : connectVsock(route.cid);
    const { socketPath } = route;
    return connectUnixSocket(socketPath, {
      description: `virtio-serial port ${portName} (${socketPath})`,
    });
  }

  async regionRoom(): Promise<number> {
    return this.#there().regionRoom();
  }

  async provideRegion(bytes: number): Promise<ProvidedRegion> {
    return this.#there().provideRegion(bytes);
  }

  withdrawRegion(): Promise<void> {
    return this.#hardware.withdrawRegion();
  }

  async provideShadow(bytes: number): Promise<ProvidedRegion> {
    return this.#there().provideShadow(bytes);
  }

  async sharedRam(): Promise<SharedRam> {
    return this.#there().sharedRam();
  }

  async readGuestFile(path: string, mostBytes: number): Promise<Uint8Array> {
    return this.#there().readGuestFile(path, mostBytes);
  }

  release(): Promise<void> {
    return this.#hardware.release();
  }

  #there(): Hardware {
    if (!this.#hardware.gone) return this.#hardware;
    const message = `${this.name}: it does not run: virsh start ${this.name}`;
    throw new VesperError('UNREACHABLE', message, { data: { guest: this.name } });
  }
}
