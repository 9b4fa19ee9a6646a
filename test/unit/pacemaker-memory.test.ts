// SPDX-License-Identifier: Apache-2.0

/** When the configuration of the cluster has to be read once more, and when what is known of it holds. */

import { expect, onTestFinished, test } from 'vitest';
import { readStatus } from '../../host/sink/pacemaker/cluster-status.ts';
import { MachineMemory } from '../../host/sink/pacemaker/machine-memory.ts';
import { recordedXml } from '../harness/stand-in-cluster.ts';

function memory() {
  const cluster = { xml: recordedXml('running'), config: 'first.xml', reads: 0, nowMs: 0 };
  const one = new MachineMemory({
    status: async () => readStatus(cluster.xml),
    machines: async () => {
      cluster.reads += 1;
      return [{ resource: 'vm-web1', config: cluster.config }];
    },
    now: () => cluster.nowMs,
  });
  onTestFinished(() => one.close());
  const look = async (atMs: number) => {
    cluster.nowMs = atMs;
    const { machines } = await one.look();
    return [machines[0]?.config, cluster.reads];
  };
  return { cluster, look };
}
const changedLater = (xml: string) => xml.replace('Sat Nov 21 16:40:19 2026', 'Sat Nov 21 16:40:20 2026');

test('what is read two seconds after the change holds until the next one', async () => {
  const { cluster, look } = memory();
  expect(await look(0)).toEqual(['first.xml', 1]);
  // Another change in the same second would look the same.
  cluster.config = 'second.xml';
  expect(await look(1_999)).toEqual(['second.xml', 2]);
  expect(await look(2_000)).toEqual(['second.xml', 3]);
  expect(await look(2_001)).toEqual(['second.xml', 3]);
  expect(await look(1e9)).toEqual(['second.xml', 3]);
  cluster.xml = changedLater(cluster.xml);
  cluster.config = 'third.xml';
  expect(await look(1e9 + 1)).toEqual(['third.xml', 4]);
  expect(await look(1e9 + 2)).toEqual(['third.xml', 5]);
  expect(await look(1e9 + 3_000)).toEqual(['third.xml', 6]);
  expect(await look(1e9 + 3_001)).toEqual(['third.xml', 6]);
});

test('another one changed it in the same second: it is read again', async () => {
  const { cluster, look } = memory();
  await look(0);
  await look(3_000);
  cluster.xml = cluster.xml.replace('client="cibadmin"', 'client="crm_resource"');
  cluster.config = 'second.xml';
  expect(await look(3_001)).toEqual(['second.xml', 3]);
});

test('a cluster without machines is not asked for their configuration; one that does not say when it changed, always', async () => {
  const { cluster, look } = memory();
  const running = cluster.xml;
  cluster.xml = running.replaceAll(':VirtualDomain"', ':Other"');
  expect(await look(0)).toEqual([undefined, 0]);
  cluster.xml = running.replace(/<last_change [^>]*>/, '');
  expect(await look(1)).toEqual(['first.xml', 1]);
  expect(await look(5_000)).toEqual(['first.xml', 2]);
  expect(await look(9_000)).toEqual(['first.xml', 3]);
});
