// SPDX-License-Identifier: Apache-2.0

/** A load that is cut short in the middle, by a machine that stops or a service that is killed: it comes to one end, which is told. */

import { afterAll, describe, expect, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import type { VesperError } from '../../host/error.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, Rig, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

describe('in the middle of a load: the init function of a probe has begun', () => {
  const began = /slowinit: init began/;
  /** Modules of that name in the guest. */
  const loaded = (machine: Machine) => machine.run('grep -c ^slowinit /proc/modules');

  test('QEMU stops: the attach ends in time and names both, nobody else waits; when it goes on, the probe is there', async () => {
    const neighbour = await Machine.boot();
    await using rig = await Rig.start({ heartbeatMs: 200, neighbours: [neighbour] });
    const other = await rig.service.guestFound(neighbour.name, 20_000);
    await other.active(20_000);
    const { name, pid } = rig.machine;
    const slow = fixturePath('6.1', 'slowinit');
    let stoppedForMs = 0;
    const attached = rig.tryAttach([slow], ['init_ms=5000']).then(
      () => undefined,
      (thrown: VesperError) => {
        stoppedForMs = performance.now() - stoppedAt;
        return thrown;
      },
    );
    await rig.machine.waitConsole(began, 20_000);
    process.kill(pid, 'SIGSTOP');
    const stoppedAt = performance.now();
    try {
      const how = { by: 'test', selfTest: false, force: false };
      const [result] = await other.attach(['signal'], [], how);
      expect(result).toMatchObject({ ok: true });
      expect(result?.took_ms).toBeLessThan(5_000);
      await neighbour.run('actor --name bystander segv');
      await rig.event(({ fields, guest }) => guest === neighbour.name && fields['comm'] === 'bystander');
      expect(other.past).toEqual([]);
      const failure = await attached;
      // Ten heartbeats, each with its time limit.
      expect(stoppedForMs).toBeLessThan(8_000);
      expect(failure).toMatchObject({ code: 'TIMEOUT', data: { guest: name, probe: 'slowinit' } });
      expect(failure?.message).toMatch(
        new RegExp(
          `^${name}: the frontend stopped answering .* whether slowinit was loaded is not known yet`,
        ),
      );
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await rig.until(
      () => rig.view.state === 'active' && rig.view.probes[0]?.loaded,
      'the guest with its probe',
    );
    expect(rig.view.probes).toMatchObject([{ name: 'slowinit', wanted: true, loaded: true }]);
    expect((await loaded(rig.machine)).output).toBe('1');
    const ended = await rig.machine.check('sh -c "echo $$"');
    await rig.event(({ probe, fields }) => probe === 'slowinit' && fields['pid'] === Number(ended));
    expectNoComplaints(rig.machine.console());
  });

  test('the service is killed with -9: its successor ends with the probe, once', async () => {
    const machine = await Machine.boot();
    await using service = new ServiceProcess(machine);
    await service.start();
    await service.guestUntil(({ state }) => state === 'active');
    const slow = fixturePath('6.1', 'slowinit');
    const answer = service.vesper('attach', machine.name, '--no-self-test', slow, '--param', 'init_ms=5000');
    await machine.waitConsole(began, 20_000);
    await service.kill();
    expect(await answer).toMatchObject({ status: 3 });

    await service.start();
    const guest = await service.guestUntil(
      ({ state, probes }) => state === 'active' && probes.some((probe) => probe.loaded),
    );
    expect(guest.probes).toMatchObject([{ name: 'slowinit', wanted: true, loaded: true }]);
    expect((await loaded(machine)).output).toBe('1');
    // It was loaded by the first one's push, and by no other.
    expect(machine.console().match(new RegExp(began, 'g'))).toHaveLength(1);
    const ended = await machine.check('sh -c "echo $$"');
    for await (const { probe } of service.api.events({ since: '0', where: `pid=${ended}` })) {
      expect(probe).toBe('slowinit');
      break;
    }
    expectNoComplaints(machine.console());
  });
});
