// SPDX-License-Identifier: Apache-2.0

/** Service, guest, frontend and machine each end at a bad moment: what is left goes on, and nothing is lost without being counted. */

import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import type { GuestView } from '../../host/api/view.ts';
import { defaultGuestModules } from '../../host/demo/image.ts';
import { Machine, type MachineOptions } from '../../host/demo/machine.ts';
import type { VesperEvent } from '../../host/guest/event.ts';
import { kernelKeys } from '../../host/kernel/release.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, probePath, Rig, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

async function unharmed(machine: Machine): Promise<void> {
  expect(await machine.check('echo I am fine')).toBe('I am fine');
  expectNoComplaints(machine.console());
}

describe('the service is killed with -9', () => {
  async function serve(options: MachineOptions = {}): Promise<{ machine: Machine; service: ServiceProcess }> {
    const machine = await Machine.boot(options);
    const service = new ServiceProcess(machine);
    onTestFinished(() => service.close());
    await service.start();
    await service.guestUntil(({ state }) => state === 'active');
    return { machine, service };
  }

  async function attach(
    { api }: ServiceProcess,
    { name }: Machine,
    probe: string,
    parameters: readonly string[] = [],
  ): Promise<void> {
    const [result] = await api.attach(name, { probes: [probe], parameters, self_test: false, force: false });
    expect(result).toMatchObject({ ok: true });
  }

  /** The first event, kept or yet to come, of which `matches` holds. */
  async function eventOf(
    { api }: ServiceProcess,
    query: Readonly<Record<string, string>>,
  ): Promise<Readonly<Record<string, unknown>>> {
    for await (const event of api.events({ since: '0', ...query })) {
      return event['fields'] as Readonly<Record<string, unknown>>;
    }
    throw new Error('the stream of events ended');
  }

  /** Lines of the audit log: who loaded what. */
  const audit = ({ directory }: ServiceProcess): readonly Readonly<Record<string, string>>[] =>
    readFileSync(join(directory, 'state', 'audit.ndjson'), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, string>);

  const probesOf = ({ probes }: GuestView) =>
    probes.map(({ name, slot, wanted, loaded, parameters }) => ({ name, slot, wanted, loaded, parameters }));

  test('idle: its successor finds the probes armed and delivers what was written meanwhile', async () => {
    const { machine, service } = await serve();
    await attach(service, machine, 'signal', ['signals=SIGSEGV,SIGKILL']);
    await attach(service, machine, 'oom');
    const before = await service.guestUntil(({ probes }) => probes.length === 2);

    await service.kill();
    await machine.run('actor --name unseen segv');
    await unharmed(machine);
    await service.start();

    const after = await service.guestUntil(({ state }) => state === 'active');
    expect(after).toMatchObject({ reason: 'resumed', boot_id: before.boot_id });
    expect(probesOf(after)).toEqual(probesOf(before));
    await eventOf(service, { event: 'died', where: 'comm=unseen' });
    // They were never unloaded.
    expect(audit(service).map(({ action, probe }) => `${action} ${probe}`)).toEqual([
      'load signal',
      'load oom',
    ]);
    // And what comes now is read, too.
    await machine.run('actor --name seen segv');
    await eventOf(service, { event: 'died', where: 'comm=seen' });
    expect((await service.api.guest(machine.name)).relay).toMatchObject({ lost: 0, gaps: 0, undecodable: 0 });
    await unharmed(machine);
  });

  test('mid-stream: every record is delivered or counted as lost', async () => {
    const { machine, service } = await serve();
    const records = 1_000_000;
    const parameters = ['start=1', `records=${records}`, 'rate=150000'];
    await attach(service, machine, fixturePath('6.1', 'storm'), parameters);
    await service.guestUntil(({ relay }) => (relay?.delivered ?? 0) > 50_000);

    await service.kill();
    await unharmed(machine);
    await service.start();

    const after = await service.guestUntil(({ state }) => state === 'active');
    expect(after.reason).toBe('resumed');
    const { tried, refused } = await eventOf(service, { event: 'finished' });
    expect(tried).toBe(records);
    // The storm writes two more: `middle` and `finished`.
    const { relay } = await service.guestUntil(
      (guest) => guest.relay !== null && guest.relay.delivered + guest.relay.lost === records + 2,
    );
    // The ring ran over while nobody read. What was lost last shows in no gap: nothing arrived behind it.
    expect(relay?.lost).toBe(refused);
    expect(relay).toMatchObject({ undecodable: 0, quarantined: 0 });
    expect(relay?.gaps).toBeGreaterThan(0);
    expect(relay?.gaps).toBeLessThanOrEqual(relay?.lost ?? 0);
    await unharmed(machine);
  });

  test('mid-push: nothing of the half image stays, its successor pushes the probe', async () => {
    const { machine, service } = await serve();
    // More than the socket between service and QEMU holds.
    const image = join(service.directory, 'bulky.ko');
    writeFileSync(image, Buffer.concat([readFileSync(fixturePath('6.1', 'bulky')), Buffer.alloc(800 << 10)]));
    await attach(service, machine, image);
    await service.api.detach(machine.name, ['bulky']);

    const answer = service.vesper('attach', machine.name, '--no-self-test', image);
    stallMidPush(service, machine);
    await service.kill();
    process.kill(machine.pid, 'SIGCONT');

    expect(await answer).toMatchObject({ status: 3, stderr: expect.stringContaining('went away') });
    expect(await machine.run('grep bulky /proc/modules')).toMatchObject({ status: 1 });
    await unharmed(machine);
    await service.start();
    const guest = await service.guestUntil(({ probes }) => probes.some(({ loaded }) => loaded));
    expect(probesOf(guest)).toMatchObject([{ name: 'bulky', wanted: true, loaded: true }]);
    expect(audit(service).at(-1)).toMatchObject({ probe: 'bulky', by: 'reconcile', result: 'loaded' });
    const pid = await machine.check('sh -c "echo $$"');
    await eventOf(service, { probe: 'bulky', event: 'ended', where: `pid=${pid}` });
    await unharmed(machine);
  });

  test('not it, but QEMU, before the service read the last event: the event is read from the mapping', async () => {
    const { machine, service } = await serve();
    await attach(service, machine, 'signal');
    process.kill(service.pid, 'SIGSTOP');
    await machine.run('actor --name farewell segv');
    await machine.kill();
    process.kill(service.pid, 'SIGCONT');

    await eventOf(service, { event: 'died', where: 'comm=farewell' });
    const { past } = await service.guestUntil(({ state }) => state === 'stopped');
    expect(past).toMatchObject([{ reason: 'QEMU was killed or crashed', lost: 0 }]);
  });

  /** Bytes that a process has given to write(2) and its kin. */
  const writtenBy = (pid: number): number =>
    Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]);

  /**
   * Stops QEMU when the service has written a part of the image. Looks without a pause in between: the whole push takes a fraction
   * of a second. The image is kept from an earlier push, so that nothing else writes as much.
   */
  function stallMidPush(service: ServiceProcess, machine: Machine): void {
    const before = writtenBy(service.pid);
    const deadline = performance.now() + 30_000;
    while (writtenBy(service.pid) - before < 100 << 10)
      if (performance.now() > deadline) throw new Error('no push came');
    process.kill(machine.pid, 'SIGSTOP');
  }
});

describe('the guest ends', () => {
  async function rigWith(options: Parameters<typeof Rig.start>[0] = {}): Promise<Rig> {
    const rig = await Rig.start({ heartbeatMs: 300, ...options });
    onTestFinished(() => rig.close());
    return rig;
  }

  const died = (comm: string) => (event: VesperEvent) =>
    event.event === 'died' && event.fields['comm'] === comm;

  /** A session with another incarnation than `before`. */
  const anew = (rig: Rig, before: string) =>
    rig.until(() => rig.view.state === 'active' && rig.view.boot_id !== before, 'the next incarnation');

  /** After a new start of the guest: the probes are there without anyone asking, with their parameters, and work. */
  async function probesAreBack(rig: Rig): Promise<void> {
    await rig.until(() => rig.view.probes.every(({ loaded }) => loaded), 'the probes');
    expect(rig.view.probes).toMatchObject([
      { name: 'oom', wanted: true, loaded: true },
      { name: 'signal', wanted: true, loaded: true, parameters: { signals: 'SIGSEGV,SIGKILL' } },
    ]);
    expect(await rig.machine.check('cat /sys/module/signal/parameters/signals')).toBe('9,11');
    await rig.machine.run('actor --name reborn segv');
    const reborn = await rig.event(died('reborn'));
    expect(reborn.bootId).toBe(rig.view.boot_id);
    expectNoComplaints(rig.machine.console().split('Linux version').at(-1) ?? '');
  }

  test.each([
    ['reboots by itself', (rig: Rig) => rig.machine.post('actor --name farewell segv; reboot -f')],
    [
      'is reset',
      async (rig: Rig) => {
        await rig.machine.run('actor --name farewell segv');
        await rig.machine.qmp('system_reset');
      },
    ],
  ])(
    '%s: the session ends with that reason, its last events are there, the next one has its probes',
    async (_, end) => {
      const rig = await rigWith();
      await rig.attach(['signal', 'oom'], ['signal.signals=SIGSEGV,SIGKILL']);
      const before = rig.view.boot_id;
      const position = rig.machine.consolePosition();

      await end(rig);
      await rig.machine.waitReady(position);
      await anew(rig, before);

      expect(rig.view.past).toMatchObject([{ boot_id: before, reason: 'the guest rebooted', lost: 0 }]);
      const farewell = await rig.event(died('farewell'));
      expect(farewell.bootId).toBe(before);
      await probesAreBack(rig);
    },
  );

  test('panics and stays dead: the reason is the panic, read from the mapping, and stays until the next boot', async () => {
    // Nobody asks it: the dying kernel itself rings.
    const rig = await rigWith({ heartbeatMs: 600_000 });
    await rig.attach(['signal', 'oom'], ['signal.signals=SIGSEGV,SIGKILL']);
    const before = rig.view.boot_id;

    await rig.machine.post('actor --name farewell segv; echo c >/proc/sysrq-trigger');
    await rig.until(() => rig.view.state === 'lost' && rig.view.past.length === 1, 'the end of the session');

    const reason = expect.stringMatching(/^kernel panic: sysrq triggered crash/i);
    expect(rig.view).toMatchObject({ state: 'lost', reason, past: [{ boot_id: before, reason, lost: 0 }] });
    const panic = await rig.event(({ probe, event }) => probe === 'frontend' && event === 'panic');
    expect(panic).toMatchObject({ severity: 'critical', ring: 'critical', bootId: before });
    expect((await rig.event(died('farewell'))).guestTimeNs).toBeLessThan(panic.guestTimeNs);
    // Another attempt to reach it changes nothing of that.
    await expect(rig.guest.active(10_000)).rejects.toThrow(/kernel panic/);
    expect(rig.view).toMatchObject({ state: 'lost', reason });

    await rig.machine.reset();
    await anew(rig, before);
    await probesAreBack(rig);
  });

  test('panics and reboots: the reason is the panic, the next incarnation has its probes', async () => {
    const rig = await rigWith({ panic: -1 });
    await rig.attach(['signal', 'oom'], ['signal.signals=SIGSEGV,SIGKILL']);
    const before = rig.view.boot_id;
    const position = rig.machine.consolePosition();

    await rig.machine.run('actor --name farewell segv');
    await rig.machine.sysrq('c');
    await rig.machine.waitReady(position);
    await anew(rig, before);

    expect(rig.view.past).toMatchObject([
      { boot_id: before, reason: expect.stringMatching(/^kernel panic: /) },
    ]);
    expect((await rig.event(died('farewell'))).bootId).toBe(before);
    expect((await rig.event(({ event }) => event === 'panic')).bootId).toBe(before);
    await probesAreBack(rig);
  });

  test.each(kernelKeys)(
    '%s panics in a machine that tells the hypervisor, and is ended by it',
    async (kernel) => {
      const rig = await rigWith({
        kernel,
        qemuArguments: ['-device', 'pvpanic'],
        modules: [...defaultGuestModules, 'pvpanic-mmio'],
      });
      await rig.machine.post('echo c >/proc/sysrq-trigger');
      await rig.machine.exited;
      await rig.until(() => rig.view.state === 'stopped', 'the end of the machine');

      expect(rig.view.reason).toMatch(/kernel panicked/);
      expect(rig.view.past).toMatchObject([{ reason: expect.stringMatching(/^kernel panic: sysrq/i) }]);
    },
  );

  test('is shut down by itself', async () => {
    const rig = await rigWith();
    await rig.machine.post('poweroff -f');
    await rig.machine.exited;
    await rig.until(() => rig.view.state === 'stopped', 'the end of the machine');
    expect(rig.view.past).toMatchObject([{ reason: 'shut down by the guest' }]);
  });

  test('is paused: that is said, nothing counts as lost, and times are right afterwards', async () => {
    const rig = await rigWith();
    await rig.attach(['signal']);
    const bootId = rig.view.boot_id;
    const bomb = await rig.machine.start('actor --name bomb timebomb 1000 11');

    await rig.machine.qmp('stop');
    await rig.until(() => rig.view.state === 'degraded', 'the pause');
    expect(rig.view.reason).toBe('the machine is paused');
    await expect(rig.attach(['oom'])).rejects.toThrow(/is paused: resume the machine/);
    // Longer than the silence after which a running guest counts as lost.
    const since = performance.now();
    await rig.until(
      () => performance.now() - since > 2_000 || rig.view.state !== 'degraded',
      'the end of the pause',
    );
    expect(rig.view).toMatchObject({ state: 'degraded', reason: 'the machine is paused' });

    await rig.machine.qmp('cont');
    await rig.until(() => rig.view.state === 'active', 'the end of the pause');
    expect(rig.view).toMatchObject({ boot_id: bootId, past: [] });
    const exploded = await rig.event(died('bomb'));
    expect(exploded.fields['pid']).toBe(bomb);
    expect(exploded.latencyUs).toBeGreaterThan(-(exploded.hostTimeErrorUs ?? 0));
    expect(exploded.latencyUs).toBeLessThan(1e6);
    await unharmed(rig.machine);
  });
});

describe('the frontend goes', () => {
  test.each(kernelKeys)(
    '%s: rmmod while it is active: the region is revoked, insmod brings everything back',
    async (kernel) => {
      await using rig = await Rig.start({ kernel, heartbeatMs: 300 });
      await rig.attach(['signal']);
      expect(await rig.machine.run('rmmod vesper')).toMatchObject({ status: 1 });
      await rig.guest.detach('signal', 'test');
      await rig.machine.run('actor --name farewell segv');

      const position = rig.machine.consolePosition();
      await rig.machine.check('rmmod vesper');
      await rig.until(() => rig.view.state !== 'active', 'the end of the session');
      expect(rig.view.past).toMatchObject([{ reason: 'the frontend was unloaded or its region unplugged' }]);
      // The host let go of the region before the guest freed it.
      expect(rig.machine.console().slice(position)).not.toMatch(/did not say within/);

      await rig.machine.check('modprobe vesper');
      await rig.until(() => rig.view.state === 'active', 'the next session');
      await rig.attach(['signal']);
      await rig.machine.run('actor --name reborn segv');
      await rig.event(({ fields }) => fields['comm'] === 'reborn');
      await unharmed(rig.machine);
    },
  );
});

describe('somebody unplugs what the service plugged', () => {
  test.each([
    ['the region', 'vesper-ivshmem', /its region unplugged/],
    ['the port', 'vesper-port', /the port org.vesper.probe.0 of .* was unplugged/],
  ])('%s: it is plugged again, and the probes are there', async (_what, id, reason) => {
    await using rig = await Rig.start({ heartbeatMs: 300 });
    await rig.attach(['signal']);
    await rig.machine.run('actor --name before segv');
    await rig.machine.qmp('device_del', { id });
    await rig.until(() => rig.view.past.length > 0, 'the end of the session');
    expect(rig.view.past[0]?.reason).toMatch(reason);

    await rig.until(() => rig.view.state === 'active' && rig.view.probes[0]?.loaded, 'the next session');
    await rig.machine.run('actor --name after segv');
    for (const comm of ['before', 'after'])
      await rig.event(({ event, fields }) => event === 'died' && fields['comm'] === comm);
    await unharmed(rig.machine);
  });
});

test('the pipe of the doorbell is removed: the next service is woken by frames', async () => {
  // Nothing is found by looking.
  await using rig = await Rig.start({ heartbeatMs: 600_000 });
  await rig.attach(['signal']);
  const pipe = rig.guest.session?.region.doorbell?.path as string;
  const rings = async () => (await rig.guest.session?.status())?.payload.doorbells as bigint;
  rmSync(pipe);
  await rig.restartService();
  expect(existsSync(pipe)).toBe(false);
  await rig.until(() => !rig.relayAwake, 'the relay to fall asleep');
  const before = await rings();
  await rig.machine.run('actor --name framed segv');
  await rig.event(({ event, fields }) => event === 'died' && fields['comm'] === 'framed');
  expect(await rings()).toBeGreaterThan(before);
  await unharmed(rig.machine);
});

test.each(kernelKeys)(
  "%s with one CPU: a frame tells of an OOM kill before the kernel's report of it",
  async (kernel) => {
    await using rig = await Rig.start({ kernel });
    rmSync(rig.guest.session?.region.doorbell?.path as string);
    await rig.restartService();
    await rig.attach(['oom']);
    const kills = () => rig.events.filter(({ event }) => event === 'kill').length;
    const printed = () => rig.machine.console().split('invoked oom-killer').length - 1;
    const group = '/sys/fs/cgroup/small';
    await rig.machine.check(
      `mount -t cgroup2 none /sys/fs/cgroup; echo +memory > /sys/fs/cgroup/cgroup.subtree_control; mkdir ${group} && echo 1M > ${group}/memory.max`,
    );
    let sooner = 0;
    // Where this process is kept waiting both have come when it looks.
    for (let kill = 0; kill < 10 && sooner === 0; kill += 1) {
      await rig.until(() => !rig.relayAwake, 'the relay to fall asleep');
      const told = rig.until(() => kills() > kill && { printed: printed() }, 'the event');
      await rig.machine.run(`sh -c 'echo 0 > ${group}/cgroup.procs; exec actor --name leaky eat'`);
      if ((await told).printed === kill) sooner += 1;
      await rig.until(() => printed() === kill + 1, 'the report');
    }
    expect(sooner).toBeGreaterThan(0);
    await unharmed(rig.machine);
  },
);

describe('a file that was attached', () => {
  test('is that file after a reboot, too, whatever the catalogue has of its name', async () => {
    await using rig = await Rig.start();
    const image = join(rig.directory, 'signal.ko');
    writeFileSync(image, Buffer.concat([readFileSync(probePath('6.1', 'signal')), Buffer.from('\n')]));
    await rig.attach([image]);
    const { boot_id, probes } = rig.view;

    await rig.machine.reset();
    await rig.until(() => rig.view.boot_id !== boot_id && rig.view.probes[0]?.loaded === true, 'the probe');
    expect(rig.view.probes[0]?.sha256).toBe(probes[0]?.sha256);
  });
});
