// SPDX-License-Identifier: Apache-2.0

/** Every relay backend on real guests: its events arrive, nothing is lost uncounted, and no memory is used after it was freed. */

import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { defaultGuestModules } from '../../host/demo/image.ts';
import { Machine, type MachineOptions } from '../../host/demo/machine.ts';
import type { RelayBackend } from '../../host/guest/relay-backend.ts';
import { defaultRegionBytes } from '../../host/relay/layout.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, Rig, type RigOptions, rigPrefix, ServiceProcess } from '../harness/rig.ts';
import { StormCensus } from '../harness/storm-census.ts';

afterAll(() => expect(leftovers()).toEqual([]));

/** Those without a device. */
const deviceless = ['guest-pages', 'inline'] as const;

/** A machine that can do the backend, and a service that uses no other. */
const only = (relayBackend: RelayBackend) => ({
  relayBackend,
  sharedMemory: relayBackend === 'guest-pages',
});

async function rigWith(options: RigOptions): Promise<Rig> {
  const rig = await Rig.start({ heartbeatMs: 300, ...options });
  onTestFinished(() => rig.close());
  return rig;
}

async function delivers(rig: Rig, comm: string): Promise<void> {
  await rig.machine.run(`actor --name ${comm} segv`);
  await rig.event(({ event, fields }) => event === 'died' && fields['comm'] === comm);
}

function unharmed(rig: Rig): void {
  expectNoComplaints(rig.machine.console());
  expect(rig.view).toMatchObject({ state: 'active', relay: { lost: 0, gaps: 0, quarantined: 0 } });
}

/** Every slot on a bus is taken: nothing can be plugged into this q35. */
const crowded = [2, 3, 4, 5].flatMap((n) => ['-device', `virtio-rng-pci,bus=pci.${n}`]);

describe('which one is used', () => {
  test.each([
    {
      what: 'a machine with a place for a device',
      shape: { sharedMemory: true },
      backend: 'ivshmem',
      why: /^$/,
    },
    {
      what: 'q35 without a free root port, shared RAM',
      shape: { machine: 'q35', sharedMemory: true, qemuArguments: crowded },
      backend: 'guest-pages',
      why: /^no ivshmem: a region needs a free PCI Express root port/,
    },
    {
      what: 'q35 without a free root port',
      shape: { machine: 'q35', qemuArguments: crowded },
      backend: 'inline',
      why: /^no ivshmem: a region needs a free PCI .*; no guest-pages: its RAM is not shared: start it with/,
    },
  ] as const)('$what: $backend', async ({ shape, backend, why }) => {
    const rig = await rigWith({ ...shape });
    expect(rig.view.relay).toMatchObject({ backend, backend_reason: expect.stringMatching(why) });
    await rig.attach(['signal']);
    await delivers(rig, 'carried');
    unharmed(rig);
  });

  test('q35 where the device finds no room for its memory: another backend, and the device is gone', async () => {
    const rig = await rigWith({ machine: 'q35', sharedMemory: true, regionBytes: 4 << 20 });
    expect(rig.view.relay).toMatchObject({
      backend: 'guest-pages',
      backend_reason: expect.stringMatching(
        /^no ivshmem: the guest's kernel found no address for the memory of the region/,
      ),
      region_bytes: 4 << 20,
    });
    const devices = JSON.stringify(await rig.machine.qmp('qom-list', { path: '/machine/peripheral' }));
    expect(devices).toContain('vesper-port');
    expect(devices).not.toContain('vesper-ivshmem');
    await rig.attach(['signal']);
    await delivers(rig, 'carried');
    unharmed(rig);
  });

  test('one that cannot be had is not replaced where the service is told to use it', async () => {
    const rig = await Rig.boot({ relayBackend: 'guest-pages' });
    onTestFinished(() => rig.close());
    await rig.service.start();
    await rig.until(() => /its RAM is not shared/.test(rig.view.reason), 'the reason');
    expect(rig.view).toMatchObject({ state: 'running', relay: null });
  });
});

describe('guest pages', () => {
  test.each([
    { kernel: '6.1', machine: 'pc', memoryMib: 256 },
    { kernel: '6.12', machine: 'q35', memoryMib: 256 },
    { kernel: '6.12', machine: 'pc', memoryMib: 4352 },
    { kernel: '6.1', machine: 'q35', memoryMib: 4352 },
    { kernel: '6.12', machine: 'pc', memoryMib: 256, sharedMemory: 'file' },
  ] as const)('$kernel on $machine with $memoryMib MiB $sharedMemory: events arrive', async (shape) => {
    const rig = await rigWith({ ...only('guest-pages'), ...shape });
    await rig.attach(['signal']);
    await delivers(rig, 'paged');
    expect(rig.view.relay).toMatchObject({ backend: 'guest-pages', region_bytes: defaultRegionBytes(1) });
    await rig.until(() => rig.guest.session?.clock.settled, 'the clocks, compared through the pages');
    const offsets = rig.guest.session?.region.ram?.pieces.map(({ offset }) => offset) ?? [];
    // A kernel takes its pages from above the hole where there are any: their offset is not their address.
    const hole = shape.machine === 'pc' ? 3 * 2 ** 30 : 2 * 2 ** 30;
    if (shape.memoryMib > 4096) expect(Math.min(...offsets)).toBeGreaterThanOrEqual(hole);
    unharmed(rig);
  });
});

describe('inline', () => {
  test.each(['6.1', '6.12'] as const)('%s: events arrive', async (kernel) => {
    const rig = await rigWith({ kernel, ...only('inline') });
    await rig.attach(['signal']);
    await delivers(rig, 'framed');
    expect(rig.view.relay).toMatchObject({ backend: 'inline' });
    unharmed(rig);
  });
});

test('inline, and the service sleeps until the frontend ends its session: the next one resumes', async () => {
  const { machine, service } = await serve('inline');
  const records = 400_000;
  await service.api.attach(machine.name, {
    probes: [fixturePath('6.1', 'storm')],
    parameters: ['start=1', `records=${records}`, 'rate=40000'],
    self_test: false,
    force: false,
  });
  await service.guestUntil(({ relay }) => (relay?.delivered ?? 0) > 10_000);
  const position = machine.consolePosition();
  process.kill(service.pid, 'SIGSTOP');
  await machine.waitConsole(/the host has read nothing for 3000 ms: its session ends/, 60_000, position);
  // The guest goes on meanwhile: nobody there waits for the host.
  expect(await machine.check('echo I am fine')).toBe('I am fine');
  process.kill(service.pid, 'SIGCONT');
  const { relay, past } = await service.guestUntil(
    (guest) => guest.relay !== null && guest.relay.delivered + guest.relay.lost === records + 2,
  );
  expect(past).toMatchObject([{ reason: expect.stringMatching(/^the frontend ended the session/) }]);
  expect(relay).toMatchObject({ undecodable: 0, quarantined: 0 });
  expect(relay?.lost).toBeGreaterThan(0);
  expectNoComplaints(machine.console());
});

describe.each(deviceless)('%s', (backend) => {
  test.each([
    { kernel: '6.1', cpus: 1 },
    { kernel: '6.12', cpus: 4 },
  ] as const)('a storm on $kernel with $cpus CPUs: every record is delivered or counted', async (shape) => {
    const records = 300_000;
    const rig = await rigWith({
      ...shape,
      ...only(backend),
      keepRow: ({ columns }, row) => (columns.ring[row] as number) % 2 === 0,
    });
    const census = new StormCensus();
    rig.service.bus.add(census);
    await rig.attach(['signal'], ['signals=SIGUSR2']);
    await rig.attach([fixturePath(shape.kernel, 'storm')], [`records=${records}`, 'start=1']);
    const { fields } = await rig.event(({ event }) => event === 'finished');
    expect(fields['tried']).toBe(records);
    // What was lost last shows as a gap when one more record arrives in each ring.
    await rig.machine.check(`actor storm ${shape.cpus} ${shape.cpus}`);
    await rig.until(() => rig.guest.session?.statistics.agrees, 'agreement');
    const { delivered, lost, gaps, attempts } = rig.guest.session?.statistics ?? expect.fail('no session');
    const { payload } = await (rig.guest.session?.status() ?? expect.fail('no session'));
    expect({ delivered, lost, gaps, attempts }).toEqual({
      delivered: Number(payload.written),
      lost: Number(payload.lost),
      gaps: lost,
      attempts: delivered + lost,
    });
    expect(census.blasts + Number(fields['refused'])).toBe(records);
    expect(census.blasts).toBeGreaterThan(0);
    expect(census).toMatchObject({ torn: 0, disordered: 0 });
    expect(rig.view).toMatchObject({ state: 'active', relay: { undecodable: 0, quarantined: 0 } });
    expectNoComplaints(rig.machine.console());
  });

  test('a probe is unloaded right behind what it wrote: all of it is decoded', async () => {
    // As long as the host may be held up.
    const patient = { heartbeatMs: 60_000, append: 'vesper.write_timeout_ms=60000' };
    const rig = await rigWith({ ...only(backend), ...patient });
    const census = new StormCensus();
    rig.service.bus.add(census);
    await rig.attach(['signal'], ['signals=all']);
    const session = rig.guest.session ?? expect.fail('no session');
    const probe = session.probes.find('signal') ?? expect.fail('it is not loaded');
    await rig.machine.start(
      "sh -c 'while grep -q ^signal /proc/modules; do usleep 10000; done; echo GONE >/dev/kmsg'",
    );
    await rig.machine.start("sh -c 'while actor storm 2000 1; do echo BURST >/dev/kmsg; done'");
    await rig.until(() => census.rows('signal', 1) > 0, 'the first of them');
    // This host is held up until more than the channel takes is in the rings, and again until the probe that it asked to unload is gone.
    const read = census.rows('signal', 1);
    heldUpUntilConsoleHas(rig.machine, /BURST/g, 5);
    const unloaded = session.unload(probe);
    await microtasks();
    heldUpUntilConsoleHas(rig.machine, /GONE/g, 1);
    expect(census.rows('signal', 1)).toBe(read);
    const { error, written } = await unloaded;
    expect(error).toBe(0);
    expect(written).toBeGreaterThan(read + 5_000);
    expect(census.rows('signal', 1) + census.rows('signal', 2)).toBe(written);
    expect(rig.view.relay).toMatchObject({ undecodable: 0, quarantined: 0 });
  });

  test('the guest is reset: its last events are there, the next boot has its probes', async () => {
    const rig = await rigWith(only(backend));
    await rig.attach(['signal']);
    const before = rig.view.boot_id;
    await delivers(rig, 'farewell');
    await rig.machine.reset();
    await rig.until(
      () =>
        rig.view.boot_id !== before &&
        rig.view.probes.every(({ loaded }) => loaded) &&
        rig.view.state === 'active',
      'the next incarnation',
    );
    expect(rig.view.past).toMatchObject([{ boot_id: before, reason: 'the guest rebooted', lost: 0 }]);
    expect(rig.view.relay).toMatchObject({ backend });
    await delivers(rig, 'reborn');
    expectNoComplaints(rig.machine.console().split('Linux version').at(-1) ?? '');
  });

  test('the service is killed with -9: its successor resumes, and delivers what was written meanwhile', async () => {
    const { machine, service } = await serve(backend);
    await service.api.attach(machine.name, {
      probes: [fixturePath('6.1', 'storm')],
      parameters: ['start=1', 'records=200000', 'rate=40000'],
      self_test: false,
      force: false,
    });
    await service.guestUntil(({ relay }) => (relay?.delivered ?? 0) > 10_000);
    await service.kill();
    expect(await machine.check('echo I am fine')).toBe('I am fine');
    await service.start();
    const after = await service.guestUntil(({ state }) => state === 'active');
    expect(after).toMatchObject({ reason: 'resumed', relay: { backend } });
    // The storm writes two more: `middle` and `finished`.
    const { relay } = await service.guestUntil(
      (guest) => guest.relay !== null && guest.relay.delivered + guest.relay.lost === 200_002,
    );
    expect(relay).toMatchObject({ undecodable: 0, quarantined: 0 });
    expectNoComplaints(machine.console());
  });
});

describe('the frontend is unloaded while its relay is active', () => {
  test.each(deviceless)('%s: the host lets go first, and insmod brings all back', async (backend) => {
    const rig = await rigWith(only(backend));
    await rig.attach(['signal']);
    await rig.guest.detach('signal', 'test');
    expect(ramMappings().length > 0).toBe(backend === 'guest-pages');
    const position = rig.machine.consolePosition();
    await rig.machine.check('rmmod vesper');
    await rig.until(() => rig.view.state !== 'active', 'the end of the session');
    expect(rig.view.past).toMatchObject([{ reason: 'the frontend was unloaded or its region unplugged' }]);
    expect(rig.machine.console().slice(position)).not.toMatch(/did not say within|given up/);
    expect(ramMappings()).toEqual([]);

    await rig.machine.check('modprobe vesper');
    await rig.until(() => rig.view.state === 'active', 'the next session');
    await rig.attach(['signal']);
    await delivers(rig, 'reborn');
    unharmed(rig);
  });

  test('guest pages, and the service does not answer: the pages are given up, not freed', async () => {
    const { machine, service } = await serve('guest-pages');
    const position = machine.consolePosition();
    process.kill(service.pid, 'SIGSTOP');
    await machine.check('rmmod vesper');
    expect(machine.console().slice(position)).toMatch(
      /did not say within 1000 ms[\s\S]*2048 KiB of guest memory are given up/,
    );
    process.kill(service.pid, 'SIGCONT');
    await service.guestUntil(({ state }) => state !== 'active');
    expectNoComplaints(machine.console());
  });
});

describe('memory of the guest', () => {
  test('QEMU is killed before the last event was read: it is read from the mapping', async () => {
    const { machine, service } = await serve('guest-pages');
    await service.api.attach(machine.name, {
      probes: ['signal'],
      parameters: [],
      self_test: false,
      force: false,
    });
    process.kill(service.pid, 'SIGSTOP');
    await machine.run('actor --name farewell segv');
    await machine.kill();
    process.kill(service.pid, 'SIGCONT');
    for await (const event of service.api.events({ since: '0', event: 'died', where: 'comm=farewell' })) {
      expect(event).toMatchObject({ guest: machine.name });
      break;
    }
    const { past } = await service.guestUntil(({ state }) => state === 'stopped');
    expect(past).toMatchObject([{ reason: 'QEMU was killed or crashed', lost: 0 }]);
  });

  test('a region larger than any piece the kernel gives: its pieces are one', async () => {
    const records = 300_000;
    const rig = await rigWith({ ...only('guest-pages'), regionBytes: 32 << 20, keepRow: () => false });
    expect(rig.guest.session?.region.ram?.pieces.length).toBeGreaterThan(4);
    const census = new StormCensus();
    rig.service.bus.add(census);
    await rig.attach([fixturePath('6.1', 'storm')], [`records=${records}`, 'start=1']);
    // All of it fits, and fills several pieces.
    await rig.until(() => census.blasts === records, 'the records');
    expect(census).toMatchObject({ torn: 0, disordered: 0 });
    unharmed(rig);
  });

  test('the service leaves for good: the guest gets its memory back', async () => {
    const rig = await rigWith(only('guest-pages'));
    const before = await freeKib(rig.machine);
    await rig.service.stop({ release: true });
    expect(await freeKib(rig.machine)).toBeGreaterThan(before + 512);
    // Its successor sees the machine end.
    await rig.restartService();
  });
});

describe('the kernel panics', () => {
  const panic = 'echo c >/proc/sysrq-trigger';
  /** A device that tells the hypervisor, which does nothing else about it. */
  const told = {
    qemuArguments: ['-device', 'pvpanic', '-action', 'panic=none'],
    modules: [...defaultGuestModules, 'pvpanic-mmio'],
    // Nobody asks it.
    heartbeatMs: 600_000,
  };

  test('guest pages: its last record is found at the next heartbeat', async () => {
    const rig = await rigWith(only('guest-pages'));
    await rig.machine.post(panic);
    await rig.until(() => rig.view.past.length === 1, 'the end of the session');
    expect(rig.view.past).toMatchObject([
      { reason: expect.stringMatching(/^kernel panic: sysrq/i), lost: 0 },
    ]);
  });

  test('inline: its last record is gone; it is silent, and the session ends when it boots again', async () => {
    const rig = await rigWith({ ...only('inline'), heartbeatMs: 1_000 });
    const position = rig.machine.consolePosition();
    await rig.machine.post(panic);
    await rig.machine.waitConsole(/end Kernel panic/, 60_000, position);
    await rig.until(() => rig.view.state === 'lost', 'the silence');
    expect(rig.view.reason).toMatch(/does not answer heartbeats/);
    expect(rig.view.past).toEqual([]);
    await rig.machine.reset();
    await rig.until(() => rig.view.state === 'active' && rig.view.past.length === 1, 'the next session');
    expect(rig.view.past).toMatchObject([{ reason: 'the guest rebooted' }]);
  });

  test.each([
    { backend: 'guest-pages', reason: /^kernel panic: sysrq triggered crash/i },
    { backend: 'inline', reason: /^kernel panic$/ },
  ] as const)(
    '$backend, and a pvpanic device tells the hypervisor: found at once',
    async ({ backend, reason }) => {
      const rig = await rigWith({ ...only(backend), ...told });
      await rig.attach(['signal']);
      await delivers(rig, 'farewell');
      await rig.machine.post(panic);
      await rig.until(() => rig.view.past.length === 1, 'the end of the session');
      expect(rig.view).toMatchObject({
        state: 'lost',
        reason: expect.stringMatching(reason),
        past: [{ reason: expect.stringMatching(reason), lost: 0 }],
      });
    },
  );
});

const freeKib = async (machine: Machine) =>
  Number(/^MemFree: +(\d+)/m.exec(await machine.check('cat /proc/meminfo'))?.[1]);

async function serve(
  backend: RelayBackend,
  options: MachineOptions = {},
): Promise<{ machine: Machine; service: ServiceProcess }> {
  const machine = await Machine.boot({ ...options, sharedMemory: backend === 'guest-pages' });
  const service = new ServiceProcess(machine, mkdtempSync(join(tmpdir(), rigPrefix)), {
    more: ['--relay', backend],
  });
  onTestFinished(() => service.close());
  await service.start();
  await service.guestUntil(({ state }) => state === 'active');
  return { machine, service };
}

/** Memory of a guest that this process has mapped. */
const ramMappings = (): readonly string[] =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('/memfd:memory-backend'));

/** What was asked for is on its way then, and nothing was read meanwhile. */
async function microtasks(): Promise<void> {
  for (let turn = 0; turn < 100; turn += 1) await undefined;
}

/** Holds up this process, so that it reads nothing, until the guest has written something `count` times more. */
function heldUpUntilConsoleHas(machine: Machine, what: RegExp, count: number): void {
  const times = () => readFileSync(machine.consoleLogPath, 'latin1').match(what)?.length ?? 0;
  const enough = times() + count;
  const deadline = performance.now() + 45_000;
  const between = new Int32Array(new SharedArrayBuffer(4));
  while (times() < enough) {
    if (performance.now() > deadline) throw new Error(`the guest did not write ${what} ${count} times more`);
    Atomics.wait(between, 0, 0, 5);
  }
}
