// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export interface NodeFiles {
  /** What is laid over /usr. */
  readonly tree: string;
  /** The node's own folder. */
  readonly directory: string;
  readonly corosyncConf: string;
  readonly cib: string;
  readonly authKey: string;
  /** Lines of its /etc/hosts. */
  readonly hosts: string;
}

export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** For unshare: a process with these has a node to itself. */
export const nodeNamespaces = [
  ...['--mount', '--pid', '--net', '--ipc', '--uts', '--fork', '--kill-child=KILL', '--mount-proc'],
];
const supervisor = join(import.meta.dirname, 'cluster-node.sh');
/** Of the packages, the commands that a service beside the cluster may want to call. */
const tools = [
  ...['attrd_updater', 'cibadmin', 'corosync-quorumtool', 'crm_attribute', 'crm_diff', 'crm_failcount'],
  ...[
    'crm_mon',
    'crm_node',
    'crm_resource',
    'crm_simulate',
    'crm_standby',
    'crm_verify',
    'crmadmin',
    'stonith_admin',
  ],
];

/** A machine of a cluster, but for its kernel and its clock: namespaces, which end with this process, however that ends. */
export class ClusterNode {
  readonly name: string;
  readonly directory: string;
  /**
   * A folder with the cluster's commands for PATH: a process outside the node that calls them acts as one on it. It
   * shares /tmp with the node, and neither /run nor /dev/shm.
   */
  readonly tools: string;
  readonly #supervisor: ChildProcess;

  private constructor(name: string, directory: string, process: ChildProcess) {
    this.name = name;
    this.directory = directory;
    this.tools = join(directory, 'tools');
    this.#supervisor = process;
  }

  /** Makes the node; nothing runs on it yet. */
  static async start(name: string, files: NodeFiles): Promise<ClusterNode> {
    const { directory, tree } = files;
    for (const folder of ['config', 'private', 'tools'])
      mkdirSync(join(directory, folder), { recursive: true });
    writeFileSync(join(directory, 'config', 'corosync.conf'), files.corosyncConf);
    writeFileSync(join(directory, 'config', 'cib.xml'), files.cib);
    writeFileSync(join(directory, 'config', 'authkey'), files.authKey);
    writeFileSync(join(directory, 'config', 'hosts'), files.hosts);
    const child = spawn(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL', 'unshare', ...nodeNamespaces],
        ...['bash', supervisor, name, tree, directory],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    let complaint = '';
    child.stderr?.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout as NodeJS.ReadableStream }).once('line', () => resolve());
      child.once('error', reject);
      child.once('close', (code, signal) =>
        reject(new Error(`${name} could not be made (${code ?? signal}): ${complaint.trim()}`)),
      );
    });
    const node = new ClusterNode(name, directory, child);
    // By their paths: on the node PATH may lead here, too.
    for (const tool of tools) {
      const file = join(node.tools, tool);
      writeFileSync(file, `#!/bin/sh\nexec ${node.prefix.join(' ')} /usr/sbin/${tool} "$@"\n`);
      chmodSync(file, 0o755);
    }
    return node;
  }

  /** Its first process, in this process's namespace; the node's view of files is under `/proc/<pid>/root`. */
  get pid(): number {
    return this.#supervisor.pid ?? -1;
  }

  /** Before a command: has it run on the node, and end when what was started in its place is killed. */
  get prefix(): readonly string[] {
    const namespaces = ['--mount', '--net', '--ipc', '--uts', `--pid=/proc/${this.pid}/ns/pid_for_children`];
    return [
      'nsenter',
      `--target=${this.pid}`,
      '--root',
      '--wd',
      ...namespaces,
      'setpriv',
      '--pdeathsig',
      'KILL',
    ];
  }

  /** Starts a daemon. Pacemaker gives up where Corosync does not answer yet. */
  launch(daemon: 'corosync' | 'pacemaker' | 'libvirt'): void {
    this.#supervisor.stdin?.write(`${daemon}\n`);
  }

  spawn(command: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program = '', ...args] = [...this.prefix, ...command];
    return spawn(program, args, options);
  }

  /** Runs a command on the node to its end. */
  async run(...command: readonly string[]): Promise<CommandResult> {
    const child = this.spawn(command, { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const [status] = (await once(child, 'close')) as [number | null];
    return { status: status ?? 128, stdout, stderr };
  }

  /** `run` that throws where the command fails; its standard output. */
  async check(...command: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.run(...command);
    if (status !== 0)
      throw new Error(
        `on ${this.name} "${command.join(' ')}" failed with status ${status}: ${stdout}${stderr}`,
      );
    return stdout;
  }

  /** Sends a signal to every process of that name on the node. */
  async signal(process: string, signal: NodeJS.Signals): Promise<void> {
    await this.check('pkill', `-${signal.slice('SIG'.length)}`, '-x', process.slice(0, 15));
  }

  /** A file of the node, empty where there is none. */
  read(path: string): string {
    try {
      return readFileSync(join(`/proc/${this.pid}/root`, path), 'utf8');
    } catch {
      return '';
    }
  }

  /** As if its power went: all that runs on it is gone when this resolves. May be called twice. */
  async end(): Promise<void> {
    const node = this.#supervisor;
    if (node.exitCode !== null || node.signalCode !== null) return;
    const gone = once(node, 'exit');
    // The end of PID 1 is the end of all others, and PID 1 is not gone before they are.
    node.stdin?.destroy();
    await gone;
  }
}
