// SPDX-License-Identifier: Apache-2.0

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cluster } from './cluster.ts';
import { addressOf } from './cluster-config.ts';
import type { ClusterNode } from './cluster-node.ts';
import { LibvirtGuest } from './libvirt-guest.ts';
import { webAgent, webGuestFiles } from './web-guest-files.ts';

const page = '<!DOCTYPE html><title>web1</title><p>Here I am.\n';

/**
 * A web server in a virtual machine that a cluster runs: the machine is a VirtualDomain resource and a guest node of the cluster,
 * the server is a resource that runs on that node. The cluster has to have been started with a bridge.
 */
export class WebGuest {
  /** Of the domain, and of the guest node. */
  readonly name = 'web1';
  /** The resource that is the machine. */
  readonly machine = 'vm-web1';
  /** The resource that is the web server. */
  readonly server = 'httpd';
  /** What the kernel calls the server's process. */
  readonly process = 'lighttpd';
  readonly address = addressOf(11);
  readonly guest: LibvirtGuest;
  readonly #cluster: Cluster;
  readonly #config: string;

  private constructor(cluster: Cluster, guest: LibvirtGuest, config: string) {
    this.#cluster = cluster;
    this.guest = guest;
    this.#config = config;
  }

  /** libvirt runs on the nodes from now on; of the guest there is only what it is made of. */
  static async create(cluster: Cluster): Promise<WebGuest> {
    const { directory } = cluster;
    const nodes = [cluster.node(0), cluster.node(1)];
    const file = (name: string, content: string | Uint8Array) => {
      writeFileSync(join(directory, name), content);
      return join(directory, name);
    };
    const [files] = await Promise.all([
      webGuestFiles('web1', addressOf(11), page),
      ...nodes.map((node) => cluster.startLibvirt(node)),
    ]);
    for (const node of nodes)
      await node.check('install', '-D', '-m', '0755', webAgent.source, `/${webAgent.path}`);
    const guest = await LibvirtGuest.create(
      { directory, uid: 0, file },
      {
        name: 'web1',
        frontend: true,
        modules: ['virtio_net'],
        // As Debian's installer sets it: the report of an OOM kill, some 60 lines, is not printed on the serial line.
        kernelArguments: 'quiet',
        files,
        // Under TCG a precopy with RAM of a multiple of 256 KiB leaves stale pages (QEMU 7.2).
        memory: { size: 262_152, unit: 'KiB' },
        // Its address stays: whoever talked to it before it was started anew would look for it at the former one for a while.
        devices:
          "<interface type='bridge'><mac address='52:54:00:00:00:0b'/><source bridge='br0'/><model type='virtio'/></interface>",
      },
    );
    return new WebGuest(cluster, guest, file('web1.xml', guest.xml));
  }

  /** Has the cluster run the machine and, when it is up, the server in it; the node that the machine is on. */
  async start(): Promise<ClusterNode> {
    const node = this.#cluster.node(0);
    await node.check('cibadmin', '--modify', '--scope', 'configuration', '--xml-text', this.#resources());
    const host = await this.#cluster.started(this.machine);
    await this.guest.waitReady();
    await this.#cluster.started(this.server);
    return this.#cluster.named(host);
  }

  /** The page, as a node gets it; undefined: the server does not answer. */
  async fetched(from: ClusterNode): Promise<string | undefined> {
    const url = `http://${this.address}/`;
    const { status, stdout } = await from.run('timeout', '5', 'busybox', 'wget', '-q', '-O', '-', url);
    return status === 0 ? stdout : undefined;
  }

  close(): void {
    this.guest.close();
  }

  #resources(): string {
    const { name, machine, server, address } = this;
    const pairs = (id: string, values: Readonly<Record<string, string>>) =>
      Object.entries(values)
        .map(([key, value]) => `<nvpair id="${id}-${key}" name="${key}" value="${value}"/>`)
        .join('');
    const operations = (id: string, values: Readonly<Record<string, readonly [string, string]>>) =>
      Object.entries(values)
        .map(
          ([task, [interval, timeout]]) =>
            `<op id="${id}-${task}" name="${task}" interval="${interval}" timeout="${timeout}"/>`,
        )
        .join('');
    return `<configuration><resources>
<primitive id="${machine}" class="ocf" provider="heartbeat" type="VirtualDomain">
<instance_attributes id="${machine}-parameters">${pairs(`${machine}-parameters`, {
      config: this.#config,
      hypervisor: 'qemu:///system',
      migration_transport: 'tcp',
      // A guest that is dead does not heed the request to shut down.
      force_stop: '1',
    })}</instance_attributes>
<meta_attributes id="${machine}-meta">${pairs(`${machine}-meta`, {
      'remote-node': name,
      'remote-addr': address,
      'remote-connect-timeout': '120s',
      'allow-migrate': 'true',
    })}</meta_attributes>
<operations>${operations(machine, {
      monitor: ['10s', '60s'],
      start: ['0', '120s'],
      stop: ['0', '60s'],
      migrate_to: ['0', '120s'],
      migrate_from: ['0', '120s'],
    })}</operations>
</primitive>
<primitive id="${server}" class="ocf" provider="vesper-test" type="httpd">
<operations>${operations(server, {
      monitor: ['10s', '60s'],
      start: ['0', '60s'],
      stop: ['0', '60s'],
    })}</operations>
</primitive>
</resources><constraints>
<rsc_location id="${server}-in-guest" rsc="${server}" node="${name}" score="INFINITY"/>
<rsc_location id="${server}-not-on-node1" rsc="${server}" node="node1" score="-INFINITY"/>
<rsc_location id="${server}-not-on-node2" rsc="${server}" node="node2" score="-INFINITY"/>
<rsc_location id="${machine}-place" rsc="${machine}" node="node1" score="100"/>
</constraints></configuration>`;
  }
}
