// SPDX-License-Identifier: Apache-2.0

/** Guests in which no process can help: attach needs the kernel alone, and works while there is no memory to be had. */

import { afterAll, describe, expect, test } from 'vitest';
import type { VesperEvent } from '../../host/guest/event.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, Rig } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

describe.each(['6.1', '6.12'] as const)('kernel %s', (kernel) => {
  test('PID 1 asleep for ever, and no other process: probes are attached, fire and are detached', async () => {
    await using rig = await Rig.start({ kernel, init: 'asleep' });

    // The self-tests of the probes fire their own points: no process has to.
    const probes = ['signal', 'oom', fixturePath(kernel, 'missingpoint')];
    const results = await rig.guest.attach(probes, [], { by: 'test', selfTest: true, force: false });
    for (const { probe, ok, message, warnings, armed_points } of results) {
      expect({ probe, ok, message }).toMatchObject({ ok: true });
      expect(armed_points).toBeGreaterThan(0);
      expect(warnings.filter((warning) => warning.includes('self-test'))).toEqual([]);
    }
    const ended = await rig.event(({ probe, event }) => probe === 'missingpoint' && event === 'ended');
    expect(ended.fields).toMatchObject({ comm: 'vesper-subject' });

    for (const name of ['signal', 'oom', 'missingpoint'])
      expect(await rig.guest.detach(name, 'test')).toMatchObject({ ok: true });
    expect(rig.view).toMatchObject({ state: 'active', probes: [], relay: { lost: 0, undecodable: 0 } });
    expectNoComplaints(rig.machine.console());
  });

  test('PID 1 in uninterruptible sleep, all others stopped: a session comes about, and the next signal is seen', async () => {
    await using rig = await Rig.start({ kernel });
    // The kernel sends them, one after the other: one comes after the attach, however long that takes.
    const bombs = new Set<number>();
    for (const seconds of [5, 10, 20, 40, 60])
      bombs.add(await rig.machine.start(`actor --name bomb timebomb ${seconds * 1_000} 9`));
    await rig.machine.freeze();
    // Not only the attach, the handshake too.
    await rig.restartService();

    await rig.attach(['signal'], ['signals=SIGKILL']);
    const sent = await rig.event(
      ({ event, fields }) => event === 'delivered' && bombs.has(Number(fields['target_tgid'])),
    );
    expect(sent).toMatchObject({ probe: 'signal', fields: { signal: 'SIGKILL', kernel: 'yes' } });
    const died = await rig.event(({ event, fields }) => event === 'died' && bombs.has(Number(fields['pid'])));
    expect(died.fields).toMatchObject({ comm: 'bomb', signal: 'SIGKILL', kernel: 'yes' });

    expect(await rig.guest.detach('signal', 'test')).toMatchObject({ ok: true });
    expect(rig.view).toMatchObject({ state: 'active', probes: [], relay: { lost: 0, undecodable: 0 } });
    expectNoComplaints(rig.machine.console());
  });

  test('no free memory and the OOM killer at work: probes are attached, see its kills, and are detached', async () => {
    const rounds = 5;
    await using rig = await Rig.start({ kernel, memoryMib: 256 });
    const { machine } = rig;
    // As soon as one of them is killed the others take what it had.
    for (const name of ['glutton1', 'glutton2', 'glutton3'])
      await machine.start(`sh -c "while :; do actor --name ${name} eat; done"`);
    const killed = /Out of memory: Killed process/g;
    await machine.waitConsole(/(?:Out of memory: Killed process.*\n[\s\S]*){2}/, 90_000);
    const before = machine.console().match(killed)?.length ?? 0;

    const isGlutton = ({ fields }: VesperEvent) => String(fields['comm']).startsWith('glutton');
    for (let round = 0; round < rounds; round += 1) {
      const from = rig.events.length;
      await rig.attach(['signal', 'oom']);
      const since = (matches: (event: VesperEvent) => boolean) =>
        rig.until(() => rig.events.slice(from).find(matches), `the events of round ${round}`);
      const kill = await since(
        (event) => event.probe === 'oom' && event.event === 'kill' && isGlutton(event),
      );
      expect(kill).toMatchObject({ ring: 'critical', fields: { constraint: 'none', oom_score_adj: 1000 } });
      expect(Number(kill.fields['free_pages'])).toBeLessThan(Number(kill.fields['total_pages']) / 20);
      const victim = kill.fields['pid'];
      await since(
        ({ probe, event, fields }) => probe === 'oom' && event === 'gone' && fields['pid'] === victim,
      );
      const died = await since(({ event, fields }) => event === 'died' && fields['pid'] === victim);
      expect(died.fields).toMatchObject({ signal: 'SIGKILL', kernel: 'yes' });
      for (const name of ['oom', 'signal'])
        expect(await rig.guest.detach(name, 'test')).toMatchObject({ ok: true });
    }

    // It was at it all the time.
    expect(machine.console().match(killed)?.length).toBeGreaterThanOrEqual(before + rounds);
    expect(rig.view).toMatchObject({ probes: [], relay: { lost: 0, undecodable: 0 } });
    expectNoComplaints(machine.console());
  });
});
