// SPDX-License-Identifier: Apache-2.0

/** A guest that overwrites what it shares with the host. */

import { randomBytes } from 'node:crypto';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { regionLayout, splitRegion } from '../../host/relay/layout.ts';
import { ringBlock } from '../../host/wire/region.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, Rig } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

test("the guest overwrites the host's half of its rings: told, set right, and nothing is lost afterwards", async () => {
  await using rig = await Rig.start({
    heartbeatMs: 200,
    keepRow: (batch, row) => batch.declaration(row)?.name === 'finished',
  });
  const { session } = rig.guest;
  if (session === undefined) throw new Error('the guest has no session');
  const { region, hello } = session;
  const { rings } = regionLayout({
    regionBytes: region.bytes,
    cpuCount: hello.cpu_count,
    ...splitRegion(region.bytes, hello.cpu_count),
  });
  // All of the half but the journal: the tail, and the flag that asks for a doorbell.
  const half = ringBlock.offsets.consumer_reserved - ringBlock.offsets.tail;
  const file = openSync(region.path, 'r+');
  onTestFinished(() => closeSync(file));
  for (const { blockOffset } of rings)
    writeSync(file, Buffer.alloc(half, 0xa8), 0, half, blockOffset + ringBlock.offsets.tail);
  await rig.until(() => rig.view.relay?.overwritten === rings.length, 'the count');
  expect(rig.view).toMatchObject({
    state: 'degraded',
    reason: "the guest overwrote the host's half of the critical ring of CPU 0",
    relay: { overwritten: 2, quarantined: 0 },
  });

  // Several times what the ring holds, in the same epoch.
  await rig.attach([fixturePath('6.1', 'storm')], ['start=1', 'records=60000', 'rate=15000']);
  const { fields } = await rig.event(({ event }) => event === 'finished');
  expect(fields).toMatchObject({ tried: 60_000, refused: 0 });
  expect(rig.view.relay).toMatchObject({ lost: 0, gaps: 0, overwritten: 2 });
  expect(rig.guest.session).toBe(session);
  expectNoComplaints(rig.machine.console());
});

test('the guest overwrites its whole region and reboots, again and again: it comes back by itself, with its probe', async () => {
  await using rig = await Rig.start({ heartbeatMs: 200 });
  await rig.attach(['signal']);
  for (let round = 0; round < 3; round += 1) {
    const { session } = rig.guest;
    if (session === undefined) throw new Error('the guest has no session');
    const { region, incarnation } = session;
    writeFileSync(region.path, randomBytes(region.bytes), { flag: 'r+' });
    await rig.machine.reset();
    await rig.until(
      () =>
        rig.view.state === 'active' && rig.view.boot_id !== incarnation.bootId && rig.view.probes[0]?.loaded,
      'the guest with its probe',
      40_000,
    );
    await rig.machine.run(`actor --name round-${round} segv`);
    const { probe } = await rig.event(({ fields }) => fields['comm'] === `round-${round}`);
    expect(probe).toBe('signal');
  }
  expectNoComplaints(rig.machine.console());
});
