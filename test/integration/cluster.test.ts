// SPDX-License-Identifier: Apache-2.0

/** The cluster that other tests rely on: that it is a real one, and that nothing of it is left. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { Cluster } from '../harness/cluster.ts';
import { clusterObstacle } from '../harness/cluster-obstacle.ts';
import { fetchClusterPackages, fetchLimitMs } from '../harness/cluster-packages.ts';
import { LibvirtGuest } from '../harness/libvirt-guest.ts';
import { repository } from '../harness/rig.ts';

const leftBy = (pid: number) =>
  readdirSync(tmpdir()).filter((name) => name.startsWith(`vesper-cluster-${pid}-`));
const obstacle = clusterObstacle();

const dummy = `<primitive id="dummy" class="ocf" provider="pacemaker" type="Dummy">
<operations><op id="dummy-monitor" name="monitor" interval="10s" timeout="60s"/></operations></primitive>`;

describe.skipIf(obstacle !== undefined)(`a cluster${obstacle === undefined ? '' : `: ${obstacle}`}`, () => {
  let killed: number;
  let cluster: Cluster;

  beforeAll(async () => {
    await fetchClusterPackages();
  }, fetchLimitMs);
  afterAll(async () => {
    await cluster?.close();
    expect(leftBy(process.pid)).toEqual([]);
  });

  test('ends when the process that made it is killed', async () => {
    const harness = new URL('../harness/cluster.ts', import.meta.url).href;
    const program = `
      const { Cluster } = await import(${JSON.stringify(harness)});
      const cluster = await Cluster.start();
      console.log(JSON.stringify([cluster.node(0).pid, cluster.node(1).pid]));
      setInterval(() => {}, 1_000);`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    killed = child.pid ?? -1;
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
    const nodes = JSON.parse(line) as readonly number[];
    expect(nodes.filter((pid) => existsSync(`/proc/${pid}/root/run/crm`))).toEqual(nodes);
    child.kill('SIGKILL');
    await expect.poll(() => nodes.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
  });

  test('is one of two nodes, and each sees the same', async () => {
    cluster = await Cluster.start({ resources: dummy });
    expect(leftBy(killed)).toEqual([]);
    const [first, second] = await Promise.all([
      cluster.state(cluster.node(0)),
      cluster.state(cluster.node(1)),
    ]);
    expect(first?.nodes).toEqual([
      { name: 'node1', online: true, maintenance: false },
      { name: 'node2', online: true, maintenance: false },
    ]);
    expect(second?.nodes).toEqual(first?.nodes);
    expect(second?.dc).toBe(first?.dc);
  });

  test('starts a resource, and starts it anew when somebody says that it failed', async () => {
    const node = await cluster.started('dummy');
    const { call } = await cluster.operation('dummy', 'start');
    await cluster.node(0).check('crm_resource', '--fail', '--resource', 'dummy', '--node', node);
    expect(await cluster.operation('dummy', 'start', call)).toMatchObject({ status: 0 });
    expect(await cluster.started('dummy')).toBe(node);
  });

  test('is found by commands that are called from outside of its nodes', () => {
    const { tools } = cluster.node(1);
    const { status, stdout } = spawnSync('crm_resource', ['--locate', '--resource', 'dummy'], {
      env: { PATH: `${tools}:${process.env['PATH']}` },
      encoding: 'utf8',
    });
    expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringMatching(/running on: node[12]/) });
  });

  test('runs a virtual machine, and starts it anew when its QEMU is killed', async () => {
    for (const node of [cluster.node(0), cluster.node(1)]) {
      await cluster.startLibvirt(node);
      await node.check('ln', '-s', repository, '/usr/lib/vesper');
    }
    const { directory } = cluster;
    const file = (name: string, content: string | Uint8Array) => {
      writeFileSync(join(directory, name), content);
      return join(directory, name);
    };
    const guest = await LibvirtGuest.create({ directory, uid: 0, file }, { name: 'web1' });
    onTestFinished(() => guest.close());
    const attributes = {
      config: file('web1.xml', guest.xml),
      hypervisor: 'qemu:///system',
      monitor_scripts: '/usr/lib/vesper/host/pacemaker/guest-health',
    };
    const attribute = ([name, value]: readonly [string, string]) =>
      `<nvpair id="vm-${name}" name="${name}" value="${value}"/>`;
    const xml = `<primitive id="vm" class="ocf" provider="heartbeat" type="VirtualDomain">
<instance_attributes id="vm-parameters">${Object.entries(attributes).map(attribute).join('')}</instance_attributes>
<operations>
<op id="vm-monitor" name="monitor" interval="1s" timeout="60s"/>
<op id="vm-start" name="start" interval="0" timeout="120s"/>
</operations></primitive>`;
    await cluster.node(0).check('cibadmin', '--create', '--scope', 'resources', '--xml-text', xml);
    const node = cluster.named(await cluster.started('vm'));
    const { call } = await cluster.operation('vm', 'start');
    await guest.waitReady();

    const position = guest.console.position;
    await node.signal('qemu-system-x86_64', 'SIGKILL');
    expect(await cluster.operation('vm', 'start', call)).toMatchObject({ node: node.name });
    await guest.waitReady(position);
    await node.check('cibadmin', '--delete', '--scope', 'resources', '--xml-text', '<primitive id="vm"/>');
    // Its history goes when it has stopped.
    await cluster.until(
      ({ resources, operations }) =>
        !resources.some(({ id }) => id === 'vm') && !operations.some(({ resource }) => resource === 'vm'),
      'the end of vm',
    );
    expect(await node.run('pgrep', '-x', 'qemu-system-x86')).toMatchObject({ status: 1 });
  }, 360_000);

  test('moves a resource from a node that loses its power', async () => {
    const node = cluster.named(await cluster.started('dummy'));
    const other = cluster.node(node === cluster.node(0) ? 1 : 0);
    await node.end();
    await cluster.until(
      ({ resources }) =>
        resources.some(
          ({ id, role, nodes }) => id === 'dummy' && role === 'Started' && nodes[0] === other.name,
        ),
      'dummy on the other node',
      { node: other },
    );
  });
});
