// SPDX-License-Identifier: Apache-2.0

/** The cluster that other tests rely on: that it is a real one, and that nothing of it is left. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { afterAll, describe, expect, test } from 'vitest';
import { Cluster } from '../harness/cluster.ts';
import { clusterObstacle } from '../harness/cluster-obstacle.ts';

const leftBy = (pid: number) =>
  readdirSync(tmpdir()).filter((name) => name.startsWith(`vesper-cluster-${pid}-`));
const obstacle = clusterObstacle();

const dummy = `<primitive id="dummy" class="ocf" provider="pacemaker" type="Dummy">
<operations><op id="dummy-monitor" name="monitor" interval="10s" timeout="60s"/></operations></primitive>`;

describe.skipIf(obstacle !== undefined)(`a cluster${obstacle === undefined ? '' : `: ${obstacle}`}`, () => {
  let killed: number;
  let cluster: Cluster;

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
