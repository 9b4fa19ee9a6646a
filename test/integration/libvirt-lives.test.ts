// SPDX-License-Identifier: Apache-2.0

/** What happens to a domain, to libvirtd and to the service: the wanted probe is there again, and nothing is lost uncounted. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { LibvirtRig, type RigDomain } from '../harness/libvirt-rig.ts';

let rig: LibvirtRig;
let one: RigDomain;

beforeAll(async () => {
  rig = await LibvirtRig.create({ callLimitMs: 20_000 });
  await rig.service.start();
  one = await rig.boot();
  await rig.attach(['signal']);
});

afterAll(async () => {
  await rig?.close();
  expect(rig?.daemon.processes()).toEqual([]);
  expect(rig?.regionFiles()).toEqual([]);
});

beforeEach(async () => {
  await rig.active();
  await rig.delivers(one, 'before');
  rig.told.length = 0;
  rig.events.length = 0;
});

const bootId = () => rig.guest().session?.incarnation.bootId;

test('the guest reboots: told once, and the new boot gets its probe', async () => {
  const [before, past] = [bootId(), rig.guest().past.length];
  const position = one.guest.console.position;
  await one.guest.shell.post('actor --name farewell segv; reboot -f');
  await rig.event(({ fields }) => fields['comm'] === 'farewell');
  await one.guest.waitReady(position);
  await rig.until(() => bootId() !== undefined && bootId() !== before);
  await rig.active();
  await rig.delivers(one, 'reborn');
  expect(rig.told).toEqual(['guest rebooted']);
  expect(rig.guest().past.slice(past)).toMatchObject([{ reason: 'the guest rebooted', lost: 0 }]);
});

test('it shuts down, and is started: nothing is left in between', async () => {
  await one.guest.shell.post('actor --name goodnight segv; poweroff -f');
  await rig.event(({ fields }) => fields['comm'] === 'goodnight');
  await rig.until(() => rig.guest().state === 'stopped');
  expect(rig.view()).toMatchObject({ reason: 'shut down' });
  await expect.poll(() => rig.regionFiles()).toEqual([]);

  const position = one.guest.console.position;
  await one.domain.start();
  await one.guest.waitReady(position);
  await rig.active();
  await rig.delivers(one, 'morning');
  expect(rig.told).toEqual(['guest stopped: shut down', 'guest found']);
});

test('it is saved and restored: the same boot goes on, with the probe it had', async () => {
  const before = bootId();
  const file = join(rig.daemon.directory, 'saved');
  await one.domain.save(file);
  await rig.until(() => rig.guest().state === 'stopped');
  expect(rig.view().reason).toMatch(/^saved/);
  await expect.poll(() => rig.regionFiles()).toEqual([]);

  await rig.connection.restore(file);
  await rig.active();
  expect(bootId()).toBe(before);
  await rig.delivers(one, 'restored');
  expect(rig.view()).toMatchObject({ relay: { backend: 'ivshmem', lost: 0, gaps: 0 } });
});

test('libvirtd is killed: the session goes on; it comes back, and is listened to again', async () => {
  const { session } = rig.guest();
  await rig.daemon.signal('SIGKILL');
  await rig.until(() => rig.service.problems().size === 1);
  await rig.delivers(one, 'alone');
  await rig.daemon.launch();
  await rig.until(() => rig.service.problems().size === 0);
  expect(rig.guest().session).toBe(session);
  expect(rig.told).toEqual([]);

  rig.connection = await rig.reconnect();
  one = { ...one, domain: await rig.connection.domainByUuid(one.guest.uuid) };
  await one.domain.suspend();
  await rig.until(() => rig.guest().state === 'degraded');
  await one.domain.resume();
  await rig.active();
  expect(rig.told).toEqual(['guest paused', 'guest resumed']);
});

test('libvirtd hangs: events go on to arrive, and so do commands to a guest with a session', async () => {
  await rig.daemon.signal('SIGSTOP');
  try {
    await rig.delivers(one, 'meanwhile');
    await rig.attach(['oom']);
    const result = await rig.guest().detach('oom', 'test');
    expect(result.ok).toBe(true);
  } finally {
    await rig.daemon.signal('SIGCONT');
  }
});

test('the service is started anew: it reads on where the last one stopped', async () => {
  const [before, region] = [bootId(), rig.guest().session?.region.path];
  await rig.restartService();
  await rig.active();
  expect(bootId()).toBe(before);
  expect(rig.guest().session?.resumed).toBe(true);
  expect(rig.guest().session?.region.path).toBe(region);
  await rig.delivers(one, 'served');
});

test('its kernel panics: found in the region though no channel works any more', async () => {
  const position = one.guest.console.position;
  const past = rig.guest().past.length;
  await one.guest.shell.post('actor --name last segv; echo c >/proc/sysrq-trigger');
  await rig.until(() => rig.guest().state === 'lost');
  expect(rig.events.some(({ fields }) => fields['comm'] === 'last')).toBe(true);
  const reason = expect.stringMatching(/^kernel panic: sysrq triggered crash/i);
  expect(rig.guest().past.slice(past)).toMatchObject([{ reason, lost: 0 }]);
  await one.domain.reset();
  await one.guest.waitReady(position);
  await rig.active();
  await rig.delivers(one, 'revived');
});

test('QEMU is killed: said so, and its region is gone', async () => {
  const path = rig.guest().session?.region.path ?? '';
  process.kill(rig.daemon.qemuPid('guest'), 'SIGKILL');
  await rig.until(() => rig.guest().state === 'stopped');
  expect(rig.view().reason).toBe('QEMU was killed or crashed');
  await expect.poll(() => existsSync(path)).toBe(false);
  const position = one.guest.console.position;
  await one.domain.start();
  await one.guest.waitReady(position);
  await rig.active();
  await rig.delivers(one, 'again');
});
