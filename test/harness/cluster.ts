// SPDX-License-Identifier: Apache-2.0

import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { scratchDirectory } from '../../host/kernel/cache.ts';
import { addressOf, authKey, cib, corosyncConf, hosts } from './cluster-config.ts';
import { ClusterNode } from './cluster-node.ts';
import { fetchClusterPackages } from './cluster-packages.ts';
import { type ClusterState, clusterState, type Operation, type ResourceState } from './cluster-state.ts';

export interface ClusterOptions {
  /** XML of resources that are there from the start; further ones by `cibadmin`. */
  readonly resources?: string;
  /** On each node a bridge `br0` into the cluster's network, for virtual machines. */
  readonly bridge?: boolean;
}

const names = ['node1', 'node2'] as const;
const patienceMs = 90_000;

/** Corosync and Pacemaker of Debian on two nodes, which are namespaces of this machine. */
export class Cluster implements AsyncDisposable {
  readonly directory: string;
  readonly #nodes: ClusterNode[] = [];

  private constructor() {
    this.directory = scratchDirectory(tmpdir(), 'vesper-cluster-');
  }

  /** Resolves when both nodes are members and one of them decides. */
  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    const tree = await fetchClusterPackages();
    const cluster = new Cluster();
    try {
      const files = {
        ...{ tree, authKey, hosts: hosts(names), corosyncConf: corosyncConf(names) },
        cib: cib(names, options.resources ?? ''),
      };
      for (const name of names) {
        const directory = join(cluster.directory, name);
        mkdirSync(directory);
        cluster.#nodes.push(await ClusterNode.start(name, { ...files, directory }));
      }
      cluster.#connect(options.bridge ?? false);
      for (const node of cluster.#nodes) node.launch('corosync');
      await Promise.all(cluster.#nodes.map((node) => cluster.startPacemaker(node)));
      await cluster.until(
        ({ dc, nodes }) => dc !== undefined && nodes.every(({ online }) => online),
        'members',
      );
      return cluster;
    } catch (thrown) {
      await cluster.close();
      throw thrown;
    }
  }

  node(index: 0 | 1): ClusterNode {
    return this.#nodes[index] as ClusterNode;
  }

  /** The node of a name that Pacemaker said. */
  named(name: string): ClusterNode {
    const found = this.#nodes.find((node) => node.name === name);
    if (found === undefined) throw new Error(`the cluster has no node ${name}`);
    return found;
  }

  /** Starts Pacemaker on a node whose Corosync was launched. */
  async startPacemaker(node: ClusterNode): Promise<void> {
    const runs = async () =>
      (await node.run('corosync-cmapctl', '-g', 'runtime.votequorum.this_node_id')).status === 0;
    await this.#poll(runs, `Corosync on ${node.name}`, patienceMs);
    node.launch('pacemaker');
  }

  /** Starts libvirt on a node, as the system's, and waits until it answers. */
  async startLibvirt(node: ClusterNode): Promise<void> {
    node.launch('libvirt');
    const answers = async () =>
      (await node.run('timeout', '30', 'virsh', '--connect=qemu:///system', 'list')).status === 0;
    await this.#poll(answers, `libvirt on ${node.name}`, patienceMs);
  }

  /** As a node that has Pacemaker running sees the cluster; undefined: Pacemaker does not answer there. */
  async state(node: ClusterNode = this.node(0)): Promise<ClusterState | undefined> {
    const { status, stdout } = await node.run(
      'timeout',
      '10',
      'crm_mon',
      '--one-shot',
      '--output-as=xml',
      '--inactive',
    );
    return status === 0 ? clusterState(stdout) : undefined;
  }

  /** Looks at the cluster until `look` gives something. */
  until<T>(
    look: (state: ClusterState) => T | undefined | false,
    what: string,
    { node = this.node(0), timeLimitMs = patienceMs } = {},
  ): Promise<T> {
    const see = async () => {
      const state = await this.state(node);
      return state === undefined ? undefined : look(state);
    };
    return this.#poll(see, what, timeLimitMs);
  }

  /** Waits until a resource is started; where. */
  started(id: string): Promise<string> {
    const runs = ({ role, nodes, failed }: ResourceState) =>
      role === 'Started' && nodes.length === 1 && !failed;
    return this.until(
      ({ resources }) => resources.find((resource) => resource.id === id && runs(resource))?.nodes[0],
      `${id} started`,
    );
  }

  /** Waits for an operation on a resource that came after `call`. */
  operation(id: string, task: string, after = 0): Promise<Operation> {
    return this.until(
      ({ operations }) =>
        operations.find((one) => one.resource === id && one.task === task && one.call > after),
      `${task} of ${id} after call ${after}`,
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.#nodes.map((node) => node.end()));
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A cable between the nodes. */
  #connect(bridge: boolean): void {
    const [first, second] = this.#nodes as [ClusterNode, ClusterNode];
    // The process id of the other end counts here, not on the node: its namespace of processes is not entered.
    const ip = (node: ClusterNode, ...args: readonly string[]) => {
      const command = [`--target=${node.pid}`, '--root', '--mount', '--net', 'ip', ...args];
      const { status, stderr, error } = spawnSync('nsenter', command, { encoding: 'utf8' });
      if (status !== 0) throw error ?? new Error(`ip ${args.join(' ')}: ${stderr}`);
    };
    ip(first, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(second.pid));
    for (const [index, node] of this.#nodes.entries()) {
      if (bridge) {
        ip(node, 'link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0');
        ip(node, 'link', 'set', 'eth0', 'master', 'br0');
      }
      const device = bridge ? 'br0' : 'eth0';
      ip(node, 'address', 'add', `${addressOf(index + 1)}/24`, 'dev', device);
      for (const one of ['lo', 'eth0', device]) ip(node, 'link', 'set', one, 'up');
    }
  }

  async #poll<T>(look: () => Promise<T | undefined | false>, what: string, timeLimitMs: number): Promise<T> {
    const deadline = performance.now() + timeLimitMs;
    for (;;) {
      const found = await look();
      if (found !== undefined && found !== false) return found;
      if (performance.now() > deadline)
        throw new Error(`${what}: not within ${timeLimitMs} ms\n${this.#account()}`);
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  /** What the daemons said last. */
  #account(): string {
    const logs = ['corosync.log', 'pacemakerd.log', 'pacemaker/pacemaker.log', 'libvirtd.log'];
    const tail = (text: string) => text.split('\n').slice(-25).join('\n');
    return this.#nodes
      .flatMap((node) => logs.map((log) => `--- ${node.name} ${log}\n${tail(node.read(`/var/log/${log}`))}`))
      .join('\n');
  }
}
