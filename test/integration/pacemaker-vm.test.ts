// SPDX-License-Identifier: Apache-2.0

/**
 * What happens to a web server in a virtual machine that a cluster of two nodes runs, where each node has the service beside its libvirtd
 * and Pacemaker. The machine is a guest node, the server a resource in it. The tests follow one another.
 */

import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Cluster } from '../harness/cluster.ts';
import type { ClusterNode } from '../harness/cluster-node.ts';
import { clusterObstacle } from '../harness/cluster-obstacle.ts';
import { fetchClusterPackages, fetchLimitMs } from '../harness/cluster-packages.ts';
import type { MetricsPage } from '../harness/metrics-page.ts';
import { NodeService } from '../harness/node-service.ts';
import { WebGuest } from '../harness/web-guest.ts';
import { fetchWebPackages } from '../harness/web-guest-files.ts';

const obstacle = clusterObstacle({ bridge: true });
/** For a busy machine. */
const patience = { timeout: 120_000, interval: 100 };

const configuration = `
providers:
  libvirt: {}
probes:
  - guest: web1
    attach: { signal: , oom: }
pacemaker:
  cooldown: 1 s
  rules:
    - guest: web1
      process: lighttpd
      resource: httpd
`;

describe.skipIf(obstacle !== undefined)(
  `a virtual machine in a cluster${obstacle === undefined ? '' : ` (skipped: ${obstacle})`}`,
  () => {
    let cluster: Cluster;
    let web: WebGuest;
    /** Of node1 and node2; the machine is on the first one until it migrates. */
    let services: readonly [NodeService, NodeService];
    let before: {
      readonly pages: readonly MetricsPage[];
      readonly starts: Readonly<Record<string, number>>;
      readonly bootId: string;
    };

    beforeAll(async () => {
      await fetchClusterPackages();
      await fetchWebPackages();
    }, fetchLimitMs);
    beforeAll(async () => {
      cluster = await Cluster.start({ bridge: true });
      web = await WebGuest.create(cluster);
      services = [
        new NodeService(cluster.node(0), configuration),
        new NodeService(cluster.node(1), configuration),
      ];
      await Promise.all(services.map((service) => service.start()));
      expect((await web.start()).name).toBe('node1');
    });
    afterAll(async () => {
      web?.close();
      await cluster?.close();
      expect(
        readdirSync(tmpdir()).filter((name) => name.startsWith(`vesper-cluster-${process.pid}-`)),
      ).toEqual([]);
    });
    beforeEach(async () => {
      // A probe of the cluster's own would find what a test does, too.
      await cluster.node(0).check('crm_resource', '--wait', '--timeout', '90s');
      before = {
        pages: await Promise.all(services.map((service) => service.page())),
        starts: starts(),
        bootId: await bootId(),
      };
    });
    afterEach(async ({ task }) => {
      if (task.result?.state !== 'fail') return;
      const logs = services.map(({ node, log }) => `--- ${node.name}\n${log.slice(-6_000)}`);
      const { stdout } = await cluster.node(0).run('crm_mon', '--one-shot', '--output-as=xml');
      process.stderr.write([...logs, stdout, ''].join('\n'));
    });

    const bootId = () => web.guest.check('cat /proc/sys/kernel/random/boot_id');
    const view = async (service: NodeService) =>
      (await service.api.guests()).find(({ name }) => name === web.name);
    /** Resolves when both probes are armed in the guest, by that service. */
    const watched = async (service: NodeService) => {
      const armed = async () => (await view(service))?.probes.filter(({ loaded }) => loaded).length;
      await expect.poll(armed, patience).toBe(2);
    };
    /** Starts of both resources that the cluster made, in all. */
    const starts = (): Readonly<Record<string, number>> => {
      const logs = [cluster.node(0), cluster.node(1)]
        .map((node) => node.read('/var/log/pacemaker/pacemaker.log'))
        .join('\n');
      const count = (id: string) =>
        [...logs.matchAll(new RegExp(`Result of (?:start|migrate_from) operation for ${id} on`, 'g'))].length;
      return { [web.machine]: count(web.machine), [web.server]: count(web.server) };
    };
    const started = (machine: number, server: number) => ({
      [web.machine]: (before.starts[web.machine] ?? 0) + machine,
      [web.server]: (before.starts[web.server] ?? 0) + server,
    });
    const outcomes = (page: MetricsPage | undefined, labels: Readonly<Record<string, string>>): number =>
      page?.sum('vesper_pacemaker_incidents_total', labels) ?? 0;
    /** How many more incidents than before ended so, on the node of that number. */
    const increase = async (at: 0 | 1, labels: Readonly<Record<string, string>>): Promise<number> =>
      outcomes(await services[at].page(), labels) - outcomes(before.pages[at], labels);
    /** Of both services since the test began. */
    const calls = () =>
      Promise.all(
        services.map(
          async (service, at) =>
            (await service.page()).value('vesper_pacemaker_calls_total') -
            (before.pages[at]?.value('vesper_pacemaker_calls_total') ?? 0),
        ),
      );
    const incidents = () => Promise.all([increase(0, {}), increase(1, {})]);
    /** Resolves when the server answers, and the cluster knows that it does. */
    const served = async (from: ClusterNode = cluster.node(1)) => {
      await expect.poll(() => web.fetched(from), patience).toContain('Here I am.');
      await cluster.started(web.server);
    };
    const shown = () => cluster.node(0).check('crm_mon', '--one-shot', '--show-node-attributes');
    const done = { action: 'fail', outcome: 'done' };

    test('serves its page to both nodes', async () => {
      await watched(services[0]);
      for (const at of [0, 1] as const) await served(cluster.node(at));
      expect((await cluster.state())?.nodes.map(({ name, online }) => [name, online])).toEqual([
        ['node1', true],
        ['node2', true],
        ['web1', true],
      ]);
    });

    test('a crash of the server: it is started anew in the machine, which is left alone', async () => {
      await web.guest.check('kill -SEGV $(pidof lighttpd)');
      await expect.poll(() => increase(0, done), patience).toBe(1);
      await served();
      expect(await calls()).toEqual([1, 0]);
      expect(starts()).toEqual(started(0, 1));
      expect(await bootId()).toBe(before.bootId);
      expect(await shown()).toMatch(
        /Node: web1.*vesper-httpd\s*: \S+ web1: crash: signal.died comm=lighttpd .*signal=SIGSEGV.*; failed on web1/s,
      );
    });

    test('an OOM kill of the server: the same', async () => {
      // What it may have is less than it has.
      await web.guest.check('cd /sys/fs/cgroup/httpd.service && echo 0 >memory.max; echo max >memory.max');
      await expect.poll(() => increase(0, done), patience).toBe(1);
      await served();
      expect(await calls()).toEqual([1, 0]);
      expect(starts()).toEqual(started(0, 1));
      expect(await bootId()).toBe(before.bootId);
      expect(await shown()).toMatch(
        /vesper-httpd\s*: \S+ web1: oom: oom.kill comm=lighttpd .*constraint=memcg.*; failed on web1/,
      );
    });

    test('an OOM kill of something else: it is recorded, and nothing else', async () => {
      await web.guest.check('actor --name leaky eat; true');
      await expect.poll(() => increase(0, { action: 'record', outcome: 'done' }), patience).toBe(1);
      await served();
      expect(await calls()).toEqual([0, 0]);
      expect(starts()).toEqual(started(0, 0));
    });

    test('in maintenance nothing is done; after it the cluster finds by itself what crashed', async () => {
      const maintenance = ['crm_attribute', '--name', 'maintenance-mode'];
      await cluster.node(0).check(...maintenance, '--update', 'true');
      await web.guest.check('kill -SEGV $(pidof lighttpd)');
      await expect.poll(() => increase(0, { outcome: 'maintenance' }), patience).toBe(1);
      expect(await web.fetched(cluster.node(1))).toBeUndefined();
      await cluster.node(0).check(...maintenance, '--delete');
      await served();
      expect(await calls()).toEqual([0, 0]);
      expect(starts()).toEqual(started(0, 1));
    });

    test('a service that is killed in the middle of it and started anew: one action', async () => {
      const [service] = services;
      await service.killWhenItSays(/failing httpd on web1/, () =>
        web.guest.check('kill -SEGV $(pidof lighttpd)'),
      );
      expect(service.owed).toMatchObject([{ resource: 'httpd', calls: 1, called: { node: 'web1' } }]);
      await service.start();
      await expect.poll(async () => outcomes(await service.page(), done), patience).toBe(1);
      await watched(service);
      await served();
      expect(service.owed).toEqual([]);
      expect((await service.page()).value('vesper_pacemaker_calls_total')).toBe(0);
      expect(starts()).toEqual(started(0, 1));
      expect(await bootId()).toBe(before.bootId);
    });

    test('its administrator reboots the machine: nothing is done', async () => {
      const position = web.guest.console.position;
      await web.guest.shell.post('killall -TERM lighttpd; sleep 1; reboot -f');
      await web.guest.waitReady(position);
      await served();
      await watched(services[0]);
      // The cluster itself may have started the machine anew meanwhile, for want of its guest node.
      await web.guest.waitReady(position);
      expect(await bootId()).not.toBe(before.bootId);
      expect(await calls()).toEqual([0, 0]);
      expect(await incidents()).toEqual([0, 0]);
    });

    test('it migrates: nothing is done', async () => {
      await cluster.node(0).check('crm_resource', '--move', '--resource', web.machine, '--node', 'node2');
      await cluster.until(
        ({ resources }) =>
          resources.some(
            ({ id, role, nodes }) => id === web.machine && role === 'Started' && nodes[0] === 'node2',
          ),
        'the migration',
      );
      await watched(services[1]);
      await served(cluster.node(0));
      expect(await bootId()).toBe(before.bootId);
      expect(await calls()).toEqual([0, 0]);
      expect(await incidents()).toEqual([0, 0]);
    });

    test('a crash there: the service of that node acts, the other one does not', async () => {
      await web.guest.check('kill -SEGV $(pidof lighttpd)');
      await expect.poll(() => increase(1, done), patience).toBe(1);
      await served();
      expect(await calls()).toEqual([0, 1]);
      expect(starts()).toEqual(started(0, 1));
    });

    test('the machine hangs: it is started anew when a second sign says so', async () => {
      const position = web.guest.console.position;
      await cluster.node(1).signal('qemu-system-x86_64', 'SIGSTOP');
      await expect.poll(() => increase(1, done), patience).toBe(1);
      await web.guest.waitReady(position);
      await served();
      await watched(services[1]);
      expect(await calls()).toEqual([0, 1]);
      expect(starts()).toEqual(started(1, 1));
      expect(await shown()).toMatch(/vesper-vm-web1\s*: \S+ web1: silence: .*; failed on node2/);
    });

    test('a panic: the machine is started anew', async () => {
      const position = web.guest.console.position;
      await web.guest.shell.post('echo c >/proc/sysrq-trigger');
      await expect.poll(() => increase(1, done), patience).toBe(1);
      await web.guest.waitReady(position);
      await served();
      await watched(services[1]);
      expect(await calls()).toEqual([0, 1]);
      expect(starts()).toEqual(started(1, 1));
      expect(await shown()).toMatch(
        /vesper-vm-web1\s*: \S+ web1: panic: frontend.panic message=.*; failed on node2/,
      );
    });
  },
);
