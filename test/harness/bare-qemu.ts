// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

export interface BareQemuOptions {
  readonly machine?: 'pc' | 'q35';
  readonly qmpPath: string;
  /** Further arguments for QEMU. */
  readonly more?: readonly string[];
  /** The user it runs as. */
  readonly uid?: number;
}

/** A real QEMU without any operating system in it: enough for what the hypervisor alone decides, and up at once. */
export class BareQemu {
  readonly child: ChildProcess;
  readonly #ended: Promise<unknown>;

  constructor({ machine = 'pc', qmpPath, more = [], uid }: BareQemuOptions) {
    const user = uid === undefined ? [] : [`--reuid=${uid}`, '--clear-groups'];
    this.child = spawn(
      'setpriv',
      [
        ...user,
        ...['--pdeathsig', 'KILL', 'qemu-system-x86_64', '-machine', `${machine},accel=tcg`, '-m', '32'],
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-S'],
        ...['-qmp', `unix:${qmpPath},server=on,wait=off`, ...more],
      ],
      { stdio: 'inherit' },
    );
    this.#ended = once(this.child, 'exit');
  }

  /** Resolves when it has ended. */
  async end(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.child.kill(signal);
    await this.#ended;
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }
}
