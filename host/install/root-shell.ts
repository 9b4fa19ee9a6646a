// SPDX-License-Identifier: Apache-2.0

import { VesperError } from '../error.ts';
import { goOn, quoted, type Remote, type RunResult } from './remote.ts';

const lookTimeoutMs = 60_000;
/** What ends a script that overran its time in the guest comes before we give up on it. */
const graceMs = 20_000;
/** How long a script of an earlier run, whose connection broke, may still hold the lock. */
const lockTimeoutS = 120;
const lockedStatus = 75;

export interface ScriptOptions {
  readonly input?: Uint8Array;
  readonly timeoutMs: number;
}

/** Scripts as root, by sudo where the user is another. It asks for nothing: what needs a password fails. */
export class RootShell {
  readonly #remote: Remote;
  readonly #sudo: boolean;

  private constructor(remote: Remote, sudo: boolean) {
    this.#remote = remote;
    this.#sudo = sudo;
  }

  /** Throws `REFUSED` where the user may not become root. */
  static async open(remote: Remote): Promise<RootShell> {
    const { status, stdout, stderr } = await remote.run('id -u && id -un', { timeoutMs: lookTimeoutMs });
    // Behind what the user's shell may have to say at every start.
    const [uid = '', user = ''] = stdout.trim().split('\n').slice(-2);
    if (status !== 0 || !/^\d+$/.test(uid)) {
      throw new VesperError(
        'REFUSED',
        `${remote.where} does not run commands (${(stderr || stdout).trim().slice(0, 200)}): the user needs a shell that does`,
      );
    }
    if (uid === '0') return new RootShell(remote, false);
    const sudo = await remote.run('sudo -n true', { timeoutMs: lookTimeoutMs });
    if (sudo.status === 0) return new RootShell(remote, true);
    const why =
      sudo.status === 127
        ? 'there is no sudo'
        : `sudo -n says: ${sudo.stderr.trim().split('\n')[0]?.slice(0, 200) ?? ''}`;
    throw new VesperError(
      'REFUSED',
      `${user} may not become root in ${remote.where} without a password (${why}). Log in as root (--ssh root@…), or let the user do so, in the guest, for as long as it is needed:
  echo '${user} ALL=(root) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/vesper-install`,
    );
  }

  /** Only looks: neither waits for others nor keeps them waiting. */
  look(script: string): Promise<RunResult> {
    return this.#remote.run(this.#asRoot(`sh -c ${quoted(script)}`), { timeoutMs: lookTimeoutMs });
  }

  /**
   * Changes something: one script at a time, also when the connection of one before broke, and each ends in its time.
   * Throws `TIMEOUT` where it does not.
   */
  async change(what: string, script: string, options: ScriptOptions): Promise<RunResult> {
    const { timeoutMs, ...input } = options;
    const limitS = Math.ceil(timeoutMs / 1000);
    const guarded = `exec flock -E ${lockedStatus} -w ${lockTimeoutS} /run/vesper-install.lock timeout -k 10 ${limitS} sh -c ${quoted(`umask 022; export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"\n${script}`)}`;
    const result = await this.#remote.run(this.#asRoot(`sh -c ${quoted(guarded)}`), {
      ...input,
      timeoutMs: timeoutMs + lockTimeoutS * 1000 + graceMs,
    });
    const tooLong =
      result.status === 124 || result.status === 137
        ? `it did not end within ${limitS} s`
        : result.status === lockedStatus
          ? 'an earlier run is still at work in the guest'
          : undefined;
    if (tooLong === undefined) return result;
    throw new VesperError('TIMEOUT', `${what} in ${this.#remote.where} failed: ${tooLong}; ${goOn}`);
  }

  #asRoot(command: string): string {
    return this.#sudo ? `sudo -n ${command}` : command;
  }
}
