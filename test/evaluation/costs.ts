// SPDX-License-Identifier: Apache-2.0

/** What polling each second costs with 100 machines, and what VESPER costs. Leaves the stage with what it added to the cluster. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StandInPeer } from '../harness/stand-in-fleet.ts';
import { StandInService } from '../harness/stand-in-service.ts';
import type { Costs } from './results.ts';
import type { Stage } from './stage.ts';

const guests = 100;
const windowMs = 20_000;
const virtualDomainPolls = 20;
const patienceMs = 180_000;
/** Of processor times in /proc. */
const ticksPerSecond = 100;

/** Gets the page as a cluster's cheapest agent would; a byte for each poll shows how many there were. */
const agent = `#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
state=/run/pages-$OCF_RESOURCE_INSTANCE
case $1 in
meta-data)
	cat <<'END'
<?xml version="1.0"?>
<resource-agent name="page" version="1.0">
<version>1.1</version>
<longdesc lang="en">A page of a web server.</longdesc>
<shortdesc lang="en">A page</shortdesc>
<parameters><parameter name="url"><longdesc lang="en">Its URL.</longdesc><shortdesc lang="en">URL</shortdesc>
<content type="string"/></parameter></parameters>
<actions>
<action name="start" timeout="20s"/>
<action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="10s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
END
	;;
start) : >"$state" ;;
stop) rm -f "$state" ;;
monitor)
	[ -e "$state" ] || exit 7
	printf . >>/run/pages-polled
	timeout 10 busybox wget -q -O /dev/null "$OCF_RESKEY_url" || exit 1
	;;
*) exit 3 ;;
esac
`;

export async function costs(stage: Stage, say: (line: string) => unknown): Promise<Costs> {
  say('costs: VESPER with stand-in guests');
  await stage.ask(false);
  const vesper = await vesperShare();
  say('costs: the guest without polls, and polled each second');
  await stage.poll(0);
  const idle = await rates(stage);
  await stage.poll(1_000);
  const polled = await rates(stage);
  await stage.poll(10_000);
  say('costs: ocf:heartbeat:VirtualDomain');
  const virtualDomain = await virtualDomainSeconds(stage);
  say(`costs: ${guests} resources polled each second`);
  await addPages(stage);
  const before = await polls(stage);
  const busy = await rates(stage);
  const made = (await polls(stage)) - before;
  return {
    guests,
    polling: {
      cpu: busy.daemons,
      idleCpu: idle.daemons,
      polls: made / (windowMs / 1e3),
    },
    inGuest: { qemuCpu: polled.qemu, idleQemuCpu: idle.qemu },
    virtualDomain,
    vesper,
  };
}

async function vesperShare(): Promise<number> {
  const place = mkdtempSync(join(tmpdir(), 'vesper-costs-'));
  const peers: StandInPeer[] = [];
  try {
    for (let number = 0; number < guests; number += 1) peers.push(await StandInPeer.start(place, number));
    await using service = await StandInService.start(place, guests);
    const { client } = service;
    const request = { probes: ['signal'], parameters: [], self_test: false, force: false };
    const names = (await client.guests()).map(({ name }) => name);
    const results = (await Promise.all(names.map((name) => client.attach(name, request)))).flat();
    if (results.length !== guests || results.some(({ ok }) => !ok)) throw new Error('a probe was refused');
    return await service.idleShare(windowMs);
  } finally {
    for (const peer of peers) await peer[Symbol.asyncDispose]();
    rmSync(place, { recursive: true, force: true });
  }
}

interface Rates {
  /** Of Pacemaker and Corosync on the node, with the agents that they ran. */
  readonly daemons: number;
  readonly qemu: number;
}

/** Processor time over a while, in seconds for each second. */
async function rates(stage: Stage): Promise<Rates> {
  const before = await processorSeconds(stage);
  await sleep(windowMs);
  const after = await processorSeconds(stage);
  const rate = (name: keyof Rates): number => (after[name] - before[name]) / (windowMs / 1e3);
  return { daemons: rate('daemons'), qemu: rate('qemu') };
}

async function processorSeconds({ node }: Stage): Promise<Rates> {
  const { stdout } = await node.run('sh', '-c', 'cat /proc/[0-9]*/stat 2>/dev/null');
  const sums = { daemons: 0, qemu: 0 };
  for (const line of stdout.split('\n')) {
    const [, comm = '', rest = ''] = /^\d+ \((.*)\) (.*)$/.exec(line) ?? [];
    const [user, system, childrenUser, childrenSystem] = rest.split(' ').slice(11, 15).map(Number);
    if (childrenSystem === undefined) continue;
    const own = ((user ?? 0) + (system ?? 0)) / ticksPerSecond;
    if (comm.startsWith('qemu-system')) sums.qemu += own;
    if (comm.startsWith('pacemaker') || comm === 'corosync')
      sums.daemons += own + ((childrenUser ?? 0) + childrenSystem) / ticksPerSecond;
  }
  return sums;
}

/** Of one monitor of the machine's own resource, as Pacemaker would call it. */
async function virtualDomainSeconds({ node, web }: Stage): Promise<number> {
  const script = `export OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=${web.machine}
export OCF_RESKEY_config=$(crm_resource --resource ${web.machine} --get-parameter config)
export OCF_RESKEY_hypervisor=qemu:///system OCF_RESKEY_CRM_meta_timeout=20000 OCF_RESOURCE_TYPE=VirtualDomain
for n in $(seq ${virtualDomainPolls}); do
	/usr/lib/ocf/resource.d/heartbeat/VirtualDomain monitor >/dev/null 2>/tmp/said || { cat /tmp/said >&2; exit 1; }
done
times`;
  // The second line is of the children; crm_resource is one of them, and counts for little.
  const [, children = ''] = (await node.check('bash', '-c', script)).trim().split('\n');
  const spent = [...children.matchAll(/(\d+)m([\d.]+)s/g)].map(([, m, s]) => Number(m) * 60 + Number(s));
  if (spent.length !== 2) throw new Error(`bash said no times: ${children}`);
  return spent.reduce((sum, one) => sum + one) / virtualDomainPolls;
}

/** Resources on the node, each polled every second; resolves when all are. */
async function addPages({ node, cluster, web }: Stage): Promise<void> {
  const file = join(cluster.directory, 'page-agent');
  writeFileSync(file, agent);
  for (const one of [cluster.node(0), cluster.node(1)])
    await one.check('install', '-D', '-m', '0755', file, '/usr/lib/ocf/resource.d/vesper-test/page');
  const names = Array.from({ length: guests }, (_, number) => `page-${number}`);
  const primitive = (
    id: string,
  ): string => `<primitive id="${id}" class="ocf" provider="vesper-test" type="page">
<instance_attributes id="${id}-parameters"><nvpair id="${id}-url" name="url" value="http://${web.address}/"/></instance_attributes>
<operations><op id="${id}-monitor" name="monitor" interval="1s" timeout="20s"/></operations></primitive>`;
  // Nowhere else is it looked for: that alone would take a guest node minutes.
  const place = (id: string): string =>
    `<rsc_location id="place-${id}" rsc="${id}" node="${node.name}" score="INFINITY" resource-discovery="exclusive"/>`;
  const change = join(cluster.directory, 'pages.xml');
  writeFileSync(
    change,
    `<configuration><resources>${names.map(primitive).join('')}</resources><constraints>${names.map(place).join('')}</constraints></configuration>`,
  );
  await node.check('cibadmin', '--modify', '--scope', 'configuration', '--xml-file', change);
  await cluster.until(
    ({ operations }) =>
      new Set(
        operations
          .filter(
            ({ task, status, resource }) =>
              task === 'monitor' && status === 0 && resource.startsWith('page-'),
          )
          .map(({ resource }) => resource),
      ).size === guests,
    `${guests} resources polled`,
    { node, timeLimitMs: patienceMs },
  );
}

const polls = async ({ node }: Stage): Promise<number> =>
  Number(await node.check('stat', '-c', '%s', '/run/pages-polled'));
