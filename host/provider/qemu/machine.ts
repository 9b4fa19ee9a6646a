// SPDX-License-Identifier: Apache-2.0

/** One guest in a QEMU that has a QMP monitor on a unix socket. */

import type { Channel } from '../../channel/channel.ts';
import { connectUnixSocket } from '../../channel/unix-socket.ts';
import { connectHybridVsock, connectVsock } from '../../channel/vsock.ts';
import { VesperError } from '../../error.ts';
import { portName } from '../../wire/message.ts';
import { readByAgent } from '../guest-agent.ts';
import type { Machine, MachineDescription, MachineState, ProvidedRegion, SharedRam } from '../provider.ts';
import { talkToAgent } from './agent.ts';
import type { Hardware } from './hardware.ts';
import type { Lifecycle } from './lifecycle.ts';

export const providerName = 'qemu';

/** Stays the same object when its QEMU goes away and comes back. */
export class QemuMachine implements Machine {
  readonly name: string;
  readonly uuid: string;
  readonly provider = providerName;
  #hardware: Hardware;
  #lifecycle: Lifecycle;

  constructor(
    { name, uuid }: Omit<MachineDescription, 'provider'>,
    hardware: Hardware,
    lifecycle: Lifecycle,
  ) {
    this.name = name;
    this.uuid = uuid;
    this.#hardware = hardware;
    this.#lifecycle = lifecycle;
  }

  get state(): MachineState {
    return this.#lifecycle.state;
  }

  /** Its QEMU is back; what was plugged into the former one is gone with it. */
  came(hardware: Hardware, lifecycle: Lifecycle): void {
    this.#hardware = hardware;
    this.#lifecycle = lifecycle;
  }

  async openChannel(): Promise<Channel> {
    const route = await this.#there().provideRoute();
    if ('cid' in route) return connectVsock(route.cid);
    if ('hybridPath' in route) return connectHybridVsock(route.hybridPath);
    const { socketPath, unplugged } = route;
    const description = `virtio-serial port ${portName} (${socketPath})`;
    return connectUnixSocket(socketPath, { description, signal: unplugged });
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
    const { qmp } = this.#there();
    return talkToAgent(this.name, qmp, (ask) => readByAgent(this.name, ask, path, mostBytes));
  }

  release(): Promise<void> {
    return this.#hardware.release();
  }

  #there(): Hardware {
    if (!this.#hardware.qmp.closed) return this.#hardware;
    const message = `${this.name}: its QEMU is gone: start the guest`;
    throw new VesperError('UNREACHABLE', message, { data: { guest: this.name } });
  }
}
