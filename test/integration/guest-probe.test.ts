// SPDX-License-Identifier: Apache-2.0

/** The resource agent `ocf:vesper:guest-probe` in a real cluster, of a real guest. The tests follow one another. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { Cluster } from '../harness/cluster.ts';
import { clusterObstacle } from '../harness/cluster-obstacle.ts';
import { fetchClusterPackages, fetchLimitMs } from '../harness/cluster-packages.ts';
import { leftovers, repository, ServiceProcess } from '../harness/rig.ts';

const obstacle = clusterObstacle();
const agent = '/usr/lib/ocf/resource.d/vesper/guest-probe';
const program = '/usr/lib/vesper/host/pacemaker/guest-health';

describe.skipIf(obstacle !== undefined)(
  `a guest-probe${obstacle === undefined ? '' : `: ${obstacle}`}`,
  () => {
    let cluster: Cluster;
    let machine: Machine;
    let service: ServiceProcess;

    beforeAll(async () => {
      await fetchClusterPackages();
    }, fetchLimitMs);
    beforeAll(async () => {
      machine = await Machine.boot();
      service = new ServiceProcess(machine);
      await service.start();
      await service.guestUntil(({ state }) => state === 'active');
      cluster = await Cluster.start();
      for (const node of [cluster.node(0), cluster.node(1)]) {
        await node.check('ln', '-s', repository, '/usr/lib/vesper');
        await node.check('install', '-D', '-m', '755', join(repository, 'host/pacemaker/guest-probe'), agent);
      }
    });
    afterAll(async () => {
      await cluster?.close();
      await (service ?? machine)?.close();
      expect(leftovers()).toEqual([]);
    });

    const parameters = () => ({ guest: machine.name, run_dir: service.directory });
    /** Calls the agent as Pacemaker would. */
    const call = (action: string, given: Readonly<Record<string, string>> = parameters()) =>
      cluster
        .node(0)
        .run(
          'env',
          ...['OCF_ROOT=/usr/lib/ocf', 'OCF_RESOURCE_INSTANCE=called', 'HA_LOGFACILITY=none'],
          ...Object.entries(given).map(([name, value]) => `OCF_RESKEY_${name}=${value}`),
          ...[agent, action],
        );

    test('is what a cluster expects of an agent', async () => {
      const options = Object.entries(parameters()).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
      const tested = await cluster.node(0).run('ocf-tester', '-n', 'tested', ...options, agent);
      expect(tested).toMatchObject({
        status: 0,
        stdout: expect.stringContaining(`${agent} passed all tests`),
      });
      expect(tested.stdout).not.toContain('does not support the monitor');
    });

    test('says what is wrong with its parameters', async () => {
      expect(await call('validate-all', {})).toMatchObject({
        status: 6,
        stderr: expect.stringContaining('the parameter guest is missing: name the guest to watch'),
      });
      expect(await call('validate-all', { ...parameters(), fail_on: 'dead sick' })).toMatchObject({
        status: 6,
        stderr: expect.stringContaining('fail_on: sick is none of dead, stopped, silent'),
      });
      expect(await call('promote')).toMatchObject({ status: 3 });
    });

    test('holds a guest for well while the service is frozen or down', async () => {
      expect(await call('start')).toMatchObject({ status: 0 });
      process.kill(service.pid, 'SIGSTOP');
      const began = performance.now();
      const frozen = await call('monitor');
      expect(frozen).toMatchObject({ status: 0 });
      expect(frozen.stderr).toMatch(/unknown: /);
      // Its own limit lies below what the cluster gives it.
      expect(performance.now() - began).toBeLessThan(20_000);
      await service.kill();
      const down = await call('monitor');
      expect(down).toMatchObject({ status: 0 });
      expect(down.stderr).toMatch(/unknown: no vesper service answers/);
      await service.start();
      await service.guestUntil(({ state }) => state === 'active');
      expect(await call('stop')).toMatchObject({ status: 0 });
      expect(await call('monitor')).toMatchObject({ status: 7 });
    });

    test('fails when the kernel panics, says why, and starts again when the guest has booted', async () => {
      const attribute = ([name, value]: readonly [string, string]) =>
        `<nvpair id="watch-${name}" name="${name}" value="${value}"/>`;
      const xml = `<primitive id="watch" class="ocf" provider="vesper" type="guest-probe">
<instance_attributes id="watch-parameters">${Object.entries(parameters()).map(attribute).join('')}</instance_attributes>
<operations>
<op id="watch-monitor" name="monitor" interval="1s" timeout="60s"/>
<op id="watch-start" name="start" interval="0" timeout="120s"/>
</operations></primitive>`;
      await cluster.node(0).check('cibadmin', '--create', '--scope', 'resources', '--xml-text', xml);
      const node = await cluster.started('watch');
      const { call: first } = await cluster.operation('watch', 'start');
      await cluster.operation('watch', 'monitor', first);

      await machine.sysrq('c');
      const failure = await cluster.until(
        ({ failures }) => failures.find(({ key }) => key === 'watch_monitor_1000'),
        'the failure of the watch',
      );
      expect(failure).toEqual({
        key: 'watch_monitor_1000',
        node,
        reason: expect.stringMatching(`^${machine.name} is dead: kernel panic`),
      });

      await machine.reset();
      await cluster.until(
        ({ operations }) =>
          operations.find(
            ({ resource, task, call, status }) =>
              resource === 'watch' && task === 'start' && call > first && status === 0,
          ),
        'the watch started again',
      );
      expect(await cluster.started('watch')).toBe(node);
    });

    test("answers as one of VirtualDomain's monitor scripts", async () => {
      const config = join(service.directory, 'domain.xml');
      writeFileSync(config, `<domain type='qemu'>\n  <name>${machine.name}</name>\n</domain>\n`);
      const environment = [`OCF_RESKEY_config=${config}`, `VESPER_RUN_DIR=${service.directory}`];
      const script = () => cluster.node(0).run('env', ...environment, program);
      // On a busy machine the service may need longer than the script waits.
      await expect.poll(script).toMatchObject({ status: 0, stdout: 'alive: activated\n' });
      await machine.kill();
      await service.guestUntil(({ state }) => state === 'stopped');
      await expect.poll(script).toMatchObject({ status: 1, stdout: expect.stringMatching(/^stopped: /) });
    });
  },
);
