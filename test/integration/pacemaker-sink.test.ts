// SPDX-License-Identifier: Apache-2.0

/**
 * What happens in a real guest, told to a real cluster of two nodes by the user hacluster. The machine and what runs in it are Dummy
 * resources, which the cluster starts anew as it would others. The tests follow one another.
 */

import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { ApiServer } from '../../host/api/server.ts';
import type { PacemakerConfig } from '../../host/service/config.ts';
import type { Rule } from '../../host/sink/pacemaker/rules.ts';
import { Cluster } from '../harness/cluster.ts';
import type { ClusterNode } from '../harness/cluster-node.ts';
import { clusterObstacle } from '../harness/cluster-obstacle.ts';
import { agentPort, guestAgentFiles, startGuestAgent } from '../harness/guest-agent-files.ts';
import { MetricsPage } from '../harness/metrics-page.ts';
import { leftovers, Rig, repository } from '../harness/rig.ts';

const obstacle = clusterObstacle();
/** For a busy machine. */
const patience = { timeout: 90_000, interval: 100 };
const cooldownMs = 1_000;

const dummy = (id: string): string => `<primitive id="${id}" class="ocf" provider="pacemaker" type="Dummy">
<operations><op id="${id}-monitor" name="monitor" interval="60s" timeout="60s"/></operations></primitive>`;
const place = (id: string): string => `<rsc_location id="place-${id}" rsc="${id}" node="node1" score="100"/>`;
/** A node of the cluster that a guest can be; nobody answers there, and nobody is asked. */
const remote = `<primitive id="guest1" class="ocf" provider="pacemaker" type="remote">
<meta_attributes id="guest1-meta"><nvpair id="guest1-role" name="target-role" value="Stopped"/></meta_attributes></primitive>`;
const fenceDevice = `<primitive id="fence" class="stonith" type="fence_vesper_test"><instance_attributes id="fence-of">
<nvpair id="fence-hosts" name="pcmk_host_list" value="guest1"/></instance_attributes></primitive>`;
const fenceLog = '/var/log/fence_vesper_test';
/** A fence agent of Pacemaker: options on standard input. It notes what it was asked to do. */
const fenceAgent = `#!/bin/sh
while IFS='=' read -r key value; do case $key in action) action=$value ;; nodename) node=$value ;; esac; done
echo "$action $node" >>${fenceLog}
[ "$action" != metadata ] || cat <<END
<?xml version="1.0"?>
<resource-agent name="fence_vesper_test" shortdesc="notes what it was asked">
<longdesc>notes what it was asked</longdesc>
<parameters><parameter name="action"><content type="string" default="reboot"/><shortdesc lang="en">what to do</shortdesc></parameter></parameters>
<actions><action name="reboot"/><action name="off"/><action name="monitor"/><action name="metadata"/></actions>
</resource-agent>
END
`;
const rule = (more: Partial<Rule>): Rule => ({
  guest: '*',
  events: ['crash', 'oom'],
  fields: {},
  resource: 'web',
  action: 'fail',
  secondSign: false,
  where: 'test',
  ...more,
});

function configuration(node: ClusterNode): PacemakerConfig {
  return {
    commands: {
      timeLimitMs: 4_000,
      prefix: [...node.prefix, 'setpriv', '--reuid=hacluster', '--regid=haclient', '--init-groups'],
    },
    settings: {
      node: undefined,
      vms: {},
      cooldownMs,
      callsPerMinute: 60,
      keepMs: 120_000,
      dumpMs: 60_000,
      rules: [
        rule({ process: 'httpd' }),
        rule({ events: ['signal.delivered'], fields: { signal: 'SIGUSR2' } }),
        rule({ process: 'marked', action: 'attribute' }),
        rule({ unit: 'shop' }),
        rule({ pidFile: '/tmp/daemon.pid' }),
        rule({ process: 'stuck', action: 'fence', resource: undefined }),
        rule({ events: ['panic'], resource: 'vm' }),
        rule({ events: ['silence'], resource: 'vm', secondSign: true }),
      ],
    },
  };
}

describe.skipIf(obstacle !== undefined)(
  `Pacemaker${obstacle === undefined ? '' : ` (skipped: ${obstacle})`}`,
  () => {
    let cluster: Cluster;
    let node: ClusterNode;
    let rig: Rig;
    let config: PacemakerConfig;
    let directory: string;
    let before: { readonly page: MetricsPage; readonly web: number; readonly vm: number };

    const page = async () => new MetricsPage(await rig.service.metrics.page());
    const outcomes = (of: MetricsPage, action: string, outcome: string): number =>
      of.all('vesper_pacemaker_incidents_total', { action, outcome })[0]?.value ?? 0;
    const increase = async (action: string, outcome: string): Promise<number> =>
      outcomes(await page(), action, outcome) - outcomes(before.page, action, outcome);
    const calls = async (): Promise<number> =>
      (await page()).value('vesper_pacemaker_calls_total') -
      before.page.value('vesper_pacemaker_calls_total');
    const owed = async (): Promise<number> => (await page()).value('vesper_pacemaker_owed');
    /** Starts of a resource that Pacemaker made, in all. */
    const starts = (id: string): number =>
      [
        ...node
          .read('/var/log/pacemaker/pacemaker.log')
          .matchAll(new RegExp(`Result of start operation for ${id} on`, 'g')),
      ].length;
    const shown = async () => node.check('crm_mon', '--one-shot', '--show-node-attributes');

    beforeAll(async () => {
      cluster = await Cluster.start({ resources: dummy('web') + dummy('vm') });
      node = cluster.node(0);
      const places = `<constraints>${place('web')}${place('vm')}</constraints>`;
      await node.check('cibadmin', '--replace', '--scope', 'constraints', '--xml-text', places);
      for (const id of ['web', 'vm']) await startedHere(id);
      config = configuration(node);
      directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));
      rig = await Rig.start({
        pacemaker: config,
        files: await guestAgentFiles(),
        qemuArguments: agentPort(join(directory, 'agent')),
        keepRow: (batch, row) => batch.declaration(row)?.name === 'died',
      });
      await rig.attach(['signal', 'oom']);
    });
    afterAll(async () => {
      await rig?.close();
      await cluster?.close();
      if (directory !== undefined) rmSync(directory, { recursive: true });
      expect(leftovers()).toEqual([]);
    });
    beforeEach(async () => {
      before = { page: await page(), web: starts('web'), vm: starts('vm') };
    });

    /** Resolves when the event is there. */
    const crash = async () => {
      const known = rig.events.length;
      await rig.machine.run('actor --name httpd segv');
      await rig.until(() => rig.events.slice(known).some(({ event }) => event === 'died'), 'the crash');
    };
    const startedHere = (id: string) =>
      cluster.until(
        ({ resources }) =>
          resources.some((one) => one.id === id && one.role === 'Started' && one.nodes.join() === 'node1'),
        `${id} on node1`,
      );

    test('a crash of a critical process: its resource is started anew, once, and the cluster shows why', async () => {
      await rig.machine.run('actor --name httpd segv');
      await expect.poll(() => increase('fail', 'done'), patience).toBe(1);
      expect(await calls()).toBe(1);
      expect([starts('web'), starts('vm')]).toEqual([before.web + 1, before.vm]);
      expect(await shown()).toMatch(
        /vesper-web\s*: \S+ \S+: crash: signal.died comm=httpd .*signal=SIGSEGV code=SEGV_MAPERR.*; failed on node1; vesper incidents \w+/,
      );
      expect(await owed()).toBe(0);
    });

    test('what the cluster shows leads to the incident: what was done, and the last events of the guest', async () => {
      const [, id = ''] = /vesper-web\s*: .*; vesper incidents (\w+)/.exec(await shown()) ?? [];
      const api = new ApiServer(rig.service);
      await api.start();
      onTestFinished(() => api.stop());
      const vesper = async (...args: readonly string[]) => {
        const program = join(repository, 'host/main.ts');
        const run = rig.service.config.runDirectory;
        return (await promisify(execFile)(process.execPath, [program, '--run-dir', run, ...args])).stdout;
      };
      expect(await vesper('incidents')).toMatch(
        new RegExp(`^${id} .* ${rig.machine.name} +fail web +done +1 +crash: signal.died comm=httpd`, 'm'),
      );
      const text = await vesper('incidents', id);
      expect(text).toMatch(/failing web on node1\n.*web was failed on node1\n.*and it was started anew\n/);
      expect(text).toMatch(/ signal.died ±[\s\S]*signal=SIGSEGV[\s\S]*comm=httpd/);
      const json = JSON.parse(await vesper('incidents', id, '--json')) as Record<string, unknown>;
      expect(json).toMatchObject({ id, guest: rig.machine.name, outcome: 'done', action: 'fail', calls: 1 });
      await expect(vesper('incidents', 'none')).rejects.toThrow(/no incident none/);
    });

    test('a process is known by its unit', async () => {
      const group = '/sys/fs/cgroup/system.slice/shop.service/worker';
      await rig.machine.check(
        `mkdir -p /sys/fs/cgroup && (mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup) && mkdir -p ${group}`,
      );
      await rig.machine.run(`sh -c 'echo 0 > ${group}/cgroup.procs; exec actor --name seller segv'`);
      await expect.poll(() => increase('fail', 'done'), patience).toBe(1);
      expect([await calls(), starts('web')]).toEqual([1, before.web + 1]);
      const died = rig.events.findLast(({ fields }) => fields['comm'] === 'seller');
      expect(died?.fields['cgroup']).toBe('/system.slice/shop.service/worker');
      // Of a path that is too long the end is kept.
      const deep = `${'a'.repeat(120)}/${'b'.repeat(100)}/other.service`;
      await rig.machine.check(`mkdir -p /sys/fs/cgroup/${deep}`);
      await rig.machine.run(
        `sh -c 'echo 0 > /sys/fs/cgroup/${deep}/cgroup.procs; exec actor --name deep segv'`,
      );
      const longest = await rig.event(({ fields }) => fields['comm'] === 'deep');
      expect(longest.fields['cgroup']).toBe(`...${`/${deep}`.slice(-188)}`);
      // In no unit.
      await rig.machine.run('actor --name seller segv');
      await rig.event(({ fields }) => fields['comm'] === 'seller' && fields['cgroup'] === '/');
      expect(await owed()).toBe(0);
    });

    test('a crash as soon as it was started anew is another one', async () => {
      await crash();
      // Before the service has seen that it was started, or after: both have to do.
      await expect.poll(() => starts('web'), { timeout: 90_000, interval: 5 }).toBe(before.web + 1);
      await crash();
      await expect.poll(() => starts('web'), patience).toBe(before.web + 2);
      await expect.poll(owed, patience).toBe(0);
      expect(await calls()).toBe(2);
    });

    test('a process that is not critical, and one that is told to end: nothing', async () => {
      await rig.machine.run('actor --name other segv; actor --name httpd timebomb 10 15');
      await rig.event(({ event, fields }) => event === 'died' && fields['signal'] === 'SIGTERM');
      expect(await owed()).toBe(0);
      expect(await increase('fail', 'done')).toBe(0);
    });

    test('a process is known by its pid file, which the guest agent reads', async () => {
      const problem = () => rig.service.problems().get('pacemaker');
      const file = 'the process of /tmp/daemon.pid is not known: ';
      await expect.poll(problem, patience).toContain(`${file}${rig.machine.name}: no guest agent answers`);
      await rig.machine.start(startGuestAgent);
      const reread = () => rig.service.reconfigureCluster(config);
      reread();
      await expect.poll(problem, patience).toMatch(/agent refused guest-file-open: .*No such file/);
      const first = await rig.machine.start('actor --name daemon pause');
      const other = await rig.machine.start('actor --name daemon pause');
      await rig.machine.check(`echo ${first} >/tmp/daemon.pid`);
      reread();
      await expect.poll(problem, patience).toBeUndefined();
      await rig.machine.run(`kill -SEGV ${other}`);
      await rig.event(({ event, fields }) => event === 'died' && fields['pid'] === other);
      expect([await owed(), await calls()]).toEqual([0, 0]);
      await rig.machine.run(`kill -SEGV ${first}`);
      await expect.poll(() => increase('fail', 'done'), patience).toBe(1);
      expect(starts('web')).toBe(before.web + 1);
      // A successor is found by itself, once its number was read.
      const successor = async () => {
        const pid = await rig.machine.start('actor --name daemon pause');
        await rig.machine.run(`echo ${pid} >/tmp/daemon.pid; sleep 3; kill -SEGV ${pid}`);
        await rig.event(({ event, fields }) => event === 'died' && fields['pid'] === pid);
        await expect.poll(owed, patience).toBe(0);
        return increase('fail', 'done');
      };
      await expect.poll(successor, patience).toBe(2);
    });

    test('an OOM kill of something else is recorded, and nothing else', async () => {
      await rig.machine.run('actor --name leaky eat');
      await expect.poll(() => increase('record', 'done'), patience).toBe(1);
      expect(await calls()).toBe(0);
      expect([starts('web'), starts('vm')]).toEqual([before.web, before.vm]);
    });

    test('an attribute instead of a failure', async () => {
      await rig.machine.run('actor --name marked abort');
      await expect.poll(() => increase('attribute', 'done'), patience).toBe(1);
      expect(await shown()).toMatch(/vesper-web-failed\s*: 1\s*\n/);
      expect(starts('web')).toBe(before.web);
    });

    test('a node that the guest is is fenced, and a host never', async () => {
      const nodes = (node: string) =>
        rig.service.reconfigureCluster({
          ...config,
          settings: { ...config.settings, nodes: { [rig.machine.name]: node } },
        });
      const fenced = () =>
        [0, 1].flatMap((at) =>
          cluster
            .node(at as 0 | 1)
            .read(fenceLog)
            .split('\n')
            .filter((line) => line.startsWith('reboot')),
        );
      const stuck = () => rig.machine.run('actor --name stuck segv');
      for (const at of [0, 1] as const) {
        const program = `/proc/${cluster.node(at).pid}/root/usr/sbin/fence_vesper_test`;
        writeFileSync(program, fenceAgent);
        chmodSync(program, 0o755);
      }
      const create = (xml: string) =>
        node.check('cibadmin', '--create', '--scope', 'resources', '--xml-text', xml);
      const stonith = (enabled: boolean) =>
        node.check('crm_attribute', '--name', 'stonith-enabled', '--update', String(enabled));
      await create(remote);
      await create(fenceDevice);
      try {
        nodes('guest1');
        await stuck();
        await expect.poll(() => increase('fence', 'no_fencing'), patience).toBe(1);
        await stonith(true);
        await cluster.started('fence');
        await stuck();
        await expect.poll(() => increase('fence', 'done'), patience).toBe(1);
        expect(fenced()).toEqual(['reboot guest1']);
        expect(await shown()).toMatch(/vesper-guest1\s*: .*: crash: .*; guest1 was fenced; vesper incidents/);
        nodes('node2');
        await stuck();
        await expect.poll(() => increase('fence', 'no_node'), patience).toBe(1);
        expect([fenced(), await calls()]).toEqual([['reboot guest1'], 1]);
      } finally {
        rig.service.reconfigureCluster(config);
        await stonith(false);
        for (const id of ['fence', 'guest1'])
          await node.run('cibadmin', '--delete', '--xml-text', `<primitive id="${id}"/>`);
      }
      expect([starts('web'), starts('vm')]).toEqual([before.web, before.vm]);
    });

    test('in maintenance nothing is failed, not even later', async () => {
      await node.check('crm_attribute', '--name', 'maintenance-mode', '--update', 'true');
      await crash();
      await expect.poll(() => increase('fail', 'maintenance'), patience).toBe(1);
      await node.check('crm_attribute', '--name', 'maintenance-mode', '--delete');
      await startedHere('web');
      expect([await calls(), await owed(), starts('web')]).toEqual([0, 0, before.web]);
    });

    test('a resource that runs on another node than the guest is left alone', async () => {
      rig.service.reconfigureCluster({ ...config, settings: { ...config.settings, node: 'node2' } });
      await crash();
      await expect.poll(() => increase('fail', 'elsewhere'), patience).toBe(1);
      rig.service.reconfigureCluster(config);
      expect([await calls(), starts('web')]).toEqual([0, before.web]);
    });

    test('10,000 events while Pacemaker is frozen and the service is started anew: one call', async () => {
      await node.check('pkill', '-STOP', 'pacemaker');
      try {
        await rig.machine.run('actor storm 10000');
        const told = async () => (await page()).value('vesper_pacemaker_events_total');
        const known = before.page.value('vesper_pacemaker_events_total');
        const lost = () => rig.view.relay?.lost ?? 0;
        await expect.poll(async () => (await told()) - known + lost(), patience).toBeGreaterThan(9_999);
        // It is found out that nobody answers.
        await expect
          .poll(() => rig.service.problems().get('pacemaker'), patience)
          .toMatch(/no answer within/);
        expect(await owed()).toBe(1);
        await rig.restartService();
        expect(await owed()).toBe(1);
      } finally {
        await node.check('pkill', '-CONT', 'pacemaker');
      }
      await expect.poll(async () => outcomes(await page(), 'fail', 'done'), patience).toBe(1);
      expect((await page()).value('vesper_pacemaker_calls_total')).toBe(1);
      expect(starts('web')).toBe(before.web + 1);
      expect(await shown()).toMatch(/vesper-web\s*: .*signal=SIGUSR2.*\(\d{4,5} events\); failed on node1; /);
      expect(rig.service.problems().get('pacemaker')).toBeUndefined();
    });

    test('what is owed of a boot that is over is not done', async () => {
      await node.check('pkill', '-STOP', 'pacemaker');
      const boot = rig.guest.session?.incarnation.bootId;
      try {
        await crash();
        await expect.poll(owed, patience).toBe(1);
        await rig.machine.post('reboot -f');
        await rig.until(
          () => ![undefined, boot].includes(rig.guest.session?.incarnation.bootId),
          'the next boot',
        );
      } finally {
        await node.check('pkill', '-CONT', 'pacemaker');
      }
      await expect.poll(() => increase('fail', 'guest_rebooted'), patience).toBe(1);
      expect([await calls(), await owed(), starts('web')]).toEqual([0, 0, before.web]);
      await rig.until(() => rig.view.probes.every(({ loaded }) => loaded), 'the probes');
    });

    test('Pacemaker down for a while: what it has started anew by itself is not failed again', async () => {
      await node.signal('pacemakerd', 'SIGTERM');
      await expect.poll(() => cluster.state(node), patience).toBeUndefined();
      await crash();
      await expect.poll(() => rig.service.problems().get('pacemaker'), patience).toMatch(/exit status 102/);
      expect(await owed()).toBe(1);
      await cluster.startPacemaker(node);
      await expect.poll(owed, patience).toBe(0);
      // It is started here, or still on the other node, or on its way.
      const expected = ['recovered', 'elsewhere', 'not_active'];
      const found = await Promise.all(expected.map((outcome) => increase('fail', outcome)));
      expect(found.reduce((sum, count) => sum + count)).toBe(1);
      expect(await calls()).toBe(0);
      for (const id of ['web', 'vm']) await startedHere(id);
    });

    test('a guest that stands still: its machine is started anew when a second sign says so', async () => {
      process.kill(rig.machine.pid, 'SIGSTOP');
      try {
        await expect.poll(() => increase('fail', 'done'), patience).toBe(1);
      } finally {
        process.kill(rig.machine.pid, 'SIGCONT');
      }
      expect([await calls(), starts('vm'), starts('web')]).toEqual([1, before.vm + 1, before.web]);
      await rig.until(() => rig.view.state === 'active', 'the guest');
    });

    test('a panic: the machine is started anew', async () => {
      await rig.machine.post('echo c > /proc/sysrq-trigger');
      await expect.poll(() => increase('fail', 'done'), patience).toBe(1);
      expect([await calls(), starts('vm'), starts('web')]).toEqual([1, before.vm + 1, before.web]);
      expect(await shown()).toMatch(/vesper-vm\s*: .*panic: frontend.panic message=.*; failed on node1; /);
      const [panic] = rig.service.incidents?.list() ?? [];
      expect(panic).toMatchObject({ event: 'panic', outcome: 'done', resource: 'vm' });
      const { events } = rig.service.incidents?.get(panic?.id ?? '') ?? {};
      expect(events?.at(-1)).toMatchObject({ probe: 'frontend', event: 'panic' });
    });
  },
);
