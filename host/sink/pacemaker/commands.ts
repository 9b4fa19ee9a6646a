// SPDX-License-Identifier: Apache-2.0

/** The cluster's own commands, each a process with a time limit, few at a time, never by way of a shell. */

import { execFile } from 'node:child_process';
import { VesperError } from '../../error.ts';
import { type ClusterStatus, readStatus } from './cluster-status.ts';
import { type FenceEvent, readFenceDevices, readFenceHistory } from './fencing.ts';
import { type MachineResource, readMachineResources } from './machine-resources.ts';

export interface CommandOptions {
  /** After which a command is killed: a frozen cluster manager does not answer for ever. */
  readonly timeLimitMs: number;
  /** What the commands are run through, for whoever is not on the node itself. */
  readonly prefix?: readonly string[] | undefined;
}

/** CRM_EX_DISCONNECT and CRM_EX_TIMEOUT of Pacemaker's exit statuses: the same command may succeed later. */
const transient: ReadonlySet<unknown> = new Set([102, 124]);
const mostAtOnce = 4;
/** What the cluster may take to fence a node; it says so itself when that is over. */
const fenceSeconds = 120;
const fenceLimitMs = (fenceSeconds + 30) * 1e3;
const largestOutput = 32 << 20;
/** Where Debian and others have them, which is not in everybody's PATH. */
const path = [process.env['PATH'] ?? '', '/usr/sbin', '/sbin'].join(':');

export class ClusterCommands {
  readonly #options: CommandOptions;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(options: CommandOptions) {
    this.#options = options;
  }

  async status(): Promise<ClusterStatus> {
    return readStatus(await this.#run('crm_mon', '--one-shot', '--output-as=xml'));
  }

  async machines(): Promise<readonly MachineResource[]> {
    return readMachineResources(await this.#run('cibadmin', '--query'));
  }

  /** What the cluster calls the node that the commands run on. */
  async ownNode(): Promise<string> {
    return (await this.#run('crm_node', '--name')).trim();
  }

  async fail(resource: string, node: string): Promise<void> {
    await this.#run('crm_resource', '--fail', '--resource', resource, '--node', node);
  }

  /** Devices that can fence a node. */
  async fenceDevices(node: string): Promise<readonly string[]> {
    return readFenceDevices(await this.#run('stonith_admin', '--list', node, '--output-as=xml'));
  }

  /** Resolves when the node was fenced. */
  async fence(node: string): Promise<void> {
    const command = ['stonith_admin', '--reboot', node, '--timeout', String(fenceSeconds)];
    // It takes no place among those that are quick: devices may be slow, and other guests do not wait for them.
    await this.#process([...(this.#options.prefix ?? []), ...command], fenceLimitMs);
  }

  /** What was done to a node, the newest first. */
  async fenceHistory(node: string): Promise<readonly FenceEvent[]> {
    return readFenceHistory(await this.#run('stonith_admin', '--history', node, '--output-as=xml'));
  }

  /** Until the node is restarted. attrd_updater would lose that of a guest node: it does not know that the node is one. */
  async setAttribute(node: string, name: string, value: string): Promise<void> {
    const args = ['--name', name, '--update', value, '--node', node, '--lifetime', 'reboot'];
    await this.#run('crm_attribute', ...args);
  }

  /**
   * Its output. Throws UNREACHABLE where the cluster manager is not there, TIMEOUT where it does not answer, HOST where the command is
   * missing, and PROVIDER where it was refused.
   */
  async #run(command: string, ...args: readonly string[]): Promise<string> {
    if (this.#running >= mostAtOnce) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running += 1;
    try {
      return await this.#process(
        [...(this.#options.prefix ?? []), command, ...args],
        this.#options.timeLimitMs,
      );
    } finally {
      // Who waits longest takes over the place.
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }

  #process([program = '', ...args]: readonly string[], timeLimitMs: number): Promise<string> {
    const env = { ...process.env, PATH: path, LC_ALL: 'C' };
    const options = { timeout: timeLimitMs, killSignal: 'SIGKILL', maxBuffer: largestOutput, env } as const;
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const line = [program, ...args].join(' ');
      const said = stderr.trim().replaceAll(/\s*\n\s*/g, '; ');
      if (error.code === 'ENOENT') {
        reject(new VesperError('HOST', `${program} is not there: install pacemaker-cli-utils`));
      } else if (error.killed === true) {
        reject(new VesperError('TIMEOUT', `${line}: no answer within ${timeLimitMs / 1e3} s: is it frozen?`));
      } else {
        const code = transient.has(error.code) ? 'UNREACHABLE' : 'PROVIDER';
        reject(
          new VesperError(code, `${line}: exit status ${String(error.code)}: ${said}`, { cause: error }),
        );
      }
    });
    return promise;
  }
}
