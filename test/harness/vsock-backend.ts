// SPDX-License-Identifier: Apache-2.0

/** A vsock device for one guest, done by a process of its own: the machine needs shared memory, the host no module. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Machine } from '../../host/demo/machine.ts';
import { repository } from './rig.ts';

const program = join(repository, 'build/test/vhost-user-vsock');

export class VsockBackend implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), `vesper-vsock-${process.pid}-`));
  /** Takes calls of the host: `CONNECT <port>\n`. */
  readonly hybridPath = join(this.directory, 'vsock');
  readonly #vhostPath = join(this.directory, 'vhost');
  #child: ChildProcess | undefined;
  complaints = '';

  static async start(): Promise<VsockBackend> {
    if (!existsSync(program))
      throw new Error(`${program} is not built: run make build/test/vhost-user-vsock`);
    const backend = new VsockBackend();
    await backend.#start();
    return backend;
  }

  async #start(): Promise<void> {
    const command = ['--pdeathsig', 'KILL', program, this.#vhostPath, this.hybridPath, '42'];
    const child = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    child.stderr.on('data', (chunk: Buffer) => (this.complaints += chunk.toString()));
    await once(createInterface({ input: child.stdout }), 'line');
  }

  /** For a machine that has the device from the start. */
  get qemuArguments(): readonly string[] {
    return [
      ...['-chardev', `socket,id=vsock,path=${this.#vhostPath}`],
      ...['-device', 'vhost-user-vsock-pci,id=vsock0,chardev=vsock'],
    ];
  }

  async plugInto(machine: Machine): Promise<void> {
    const addr = { type: 'unix', data: { path: this.#vhostPath } };
    await machine.qmp('chardev-add', {
      id: 'vsock',
      backend: { type: 'socket', data: { addr, server: false } },
    });
    await machine.qmp('device_add', { driver: 'vhost-user-vsock-pci', id: 'vsock0', chardev: 'vsock' });
  }

  /** Resolves when the guest has let go of the device; then another may be plugged. */
  async unplugged(machine: Machine): Promise<void> {
    const deadline = performance.now() + 30_000;
    for (;;) {
      try {
        await machine.qmp('chardev-remove', { id: 'vsock' });
        return;
      } catch (thrown) {
        if (performance.now() > deadline) throw thrown;
        await new Promise((done) => setTimeout(done, 20));
      }
    }
  }

  async close(): Promise<void> {
    const child = this.#child;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    }
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
