// SPDX-License-Identifier: Apache-2.0

/**
 * From the crash of a critical process in a guest to the cluster's recovery: the guest's record of the death, the call of the cluster's
 * command, and the stop of the failed resource by Pacemaker's executor, as its log has it. One real guest, two nodes, a Dummy resource,
 * and a machine; one crash after the other, each after the cluster is through with the one before.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PacemakerConfig } from '../../host/service/config.ts';
import { Cluster } from '../harness/cluster.ts';
import type { ClusterNode } from '../harness/cluster-node.ts';
import { atMost, median, quantile, report } from '../harness/figure.ts';
import { MetricsPage } from '../harness/metrics-page.ts';
import { Rig } from '../harness/rig.ts';

const rounds = 20;
const warmUp = 2;
const limitMs = 90_000;

const dummy = (id: string): string => `<primitive id="${id}" class="ocf" provider="pacemaker" type="Dummy">
<operations><op id="${id}-monitor" name="monitor" interval="60s" timeout="60s"/></operations></primitive>`;

/** Where there are machines, the sink has to know which of them is the guest. */
const machine = `<primitive id="vm" class="ocf" provider="heartbeat" type="VirtualDomain">
<instance_attributes id="vm-of"><nvpair id="vm-config" name="config" value="/etc/libvirt/qemu/another.xml"/></instance_attributes>
<meta_attributes id="vm-meta"><nvpair id="vm-role" name="target-role" value="Stopped"/></meta_attributes></primitive>`;

const configuration = (node: ClusterNode): PacemakerConfig => ({
  commands: {
    timeLimitMs: 10_000,
    prefix: [...node.prefix, 'setpriv', '--reuid=hacluster', '--regid=haclient', '--init-groups'],
  },
  settings: {
    node: undefined,
    vms: {},
    cooldownMs: 0,
    callsPerMinute: 9_999,
    keepMs: 60_000,
    dumpMs: 60_000,
    rules: [
      {
        guest: '*',
        events: ['crash'],
        process: 'httpd',
        fields: {},
        resource: 'web',
        action: 'fail',
        secondSign: false,
        where: 'bench',
      },
    ],
  },
});

/** When Pacemaker's executor began to stop the resource, each time, in milliseconds since 1970. */
function stops(node: ClusterNode): readonly number[] {
  const year = new Date().getFullYear();
  return [
    ...node
      .read('/var/log/pacemaker/pacemaker.log')
      .matchAll(/^(\w+ \d+) (\d+:\d+:\d+\.\d+) .*executing - rsc:web action:stop/gm),
  ].map(([, day, time]) => Date.parse(`${day} ${year} ${time}`));
}

async function until(what: string, look: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await look())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${limitMs} ms`);
    await sleep(20);
  }
}

await using cluster = await Cluster.start({ resources: dummy('web') + machine });
const node = cluster.node(0);
const place = '<rsc_location id="place-web" rsc="web" node="node1" score="100"/>';
await node.check(
  ...['cibadmin', '--replace', '--scope', 'constraints', '--xml-text', `<constraints>${place}</constraints>`],
);
await cluster.until(
  ({ resources }) =>
    resources.some(({ id, nodes, role }) => id === 'web' && role === 'Started' && nodes.join() === 'node1'),
  'web on node1',
);
await using rig = await Rig.start({
  pacemaker: configuration(node),
  keepRow: (batch, row) => batch.declaration(row)?.name === 'died',
});
await rig.attach(['signal']);
const done = async () =>
  new MetricsPage(await rig.service.metrics.page()).all('vesper_pacemaker_incidents_total', {
    outcome: 'done',
  })[0]?.value ?? 0;
/** Of the last incident, until it is settled: when the call was begun. */
const calledAt = (): number | undefined =>
  (
    JSON.parse(readFileSync(join(rig.directory, 'state/pacemaker.json'), 'utf8')) as {
      acted: Record<string, number>;
    }
  ).acted['web'];

const parts = { host: [] as number[], call: [] as number[], stop: [] as number[], all: [] as number[] };
for (let round = 0; round < warmUp + rounds; round += 1) {
  const before = { stops: stops(node).length, events: rig.events.length, done: await done() };
  await rig.machine.run('actor --name httpd segv');
  await until('the recovery', async () => (await done()) > before.done);
  const event = rig.events[before.events];
  const stop = stops(node)[before.stops];
  const call = calledAt();
  if (event === undefined || stop === undefined || call === undefined)
    throw new Error('something is not there');
  // The history of a resource is exact to a second.
  await sleep(1_100);
  if (round < warmUp) continue;
  const diedMs = event.hostTimeMs;
  const seenMs = diedMs + event.latencyUs / 1e3;
  parts.host.push(seenMs - diedMs);
  parts.call.push(call - seenMs);
  parts.stop.push(stop - call);
  parts.all.push(stop - diedMs);
}
report('recovery_event_to_host_median', median(parts.host), 'ms');
report('recovery_host_to_call_median', median(parts.call), 'ms');
report('recovery_call_to_stop_median', median(parts.stop), 'ms');
report('recovery_median', median(parts.all), 'ms', atMost(150));
report('recovery_p90', quantile(parts.all, 0.9), 'ms');
