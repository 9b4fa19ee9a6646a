// SPDX-License-Identifier: Apache-2.0

/** The demo's promise as tests: both probes on both kernels, both machine types, small memory and memory above the PCI hole. */

import { describe, expect, test } from 'vitest';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { Rig } from '../harness/rig.ts';

describe.each([
  { kernel: '6.1', machine: 'pc', memoryMib: 256 },
  { kernel: '6.1', machine: 'q35', memoryMib: 256 },
  { kernel: '6.12', machine: 'pc', memoryMib: 256 },
  { kernel: '6.12', machine: 'q35', memoryMib: 4352 },
  { kernel: '6.1', machine: 'pc', memoryMib: 4352 },
] as const)('kernel $kernel on $machine with $memoryMib MiB', (options) => {
  test('a SIGSEGV, a SIGKILL by another process and an OOM kill arrive with who, what and by whom', async () => {
    await using rig = await Rig.start(options);
    await rig.attach(['signal', 'oom']);

    await rig.machine.run('actor --name webserver segv 0xdead000');
    const segv = await rig.event(({ event, fields }) => event === 'died' && fields['signal'] === 'SIGSEGV');
    expect(segv).toMatchObject({
      guest: rig.machine.name,
      probe: 'signal',
      severity: 'critical',
      ring: 'critical',
      fields: { comm: 'webserver', code: 'SEGV_MAPERR', kernel: 'yes', address: '0xdead000', core: 'no' },
    });

    const pid = await rig.machine.start('actor --name database pause');
    await rig.machine.run(`actor --name killer kill ${pid} 9`);
    const killed = await rig.event(({ event, fields }) => event === 'died' && fields['signal'] === 'SIGKILL');
    expect(killed.fields).toMatchObject({ pid, comm: 'database', kernel: 'no', sender_comm: 'killer' });

    // In a memory cgroup, so that a large guest runs out of memory as soon as a small one.
    await rig.machine.check(
      'mkdir -p /sys/fs/cgroup && (mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup)',
    );
    await rig.machine.check(
      'echo +memory > /sys/fs/cgroup/cgroup.subtree_control; mkdir /sys/fs/cgroup/small && echo 16M > /sys/fs/cgroup/small/memory.max',
    );
    await rig.machine.run("sh -c 'echo $$ > /sys/fs/cgroup/small/cgroup.procs; exec actor --name leaky eat'");
    const victim = await rig.event(({ probe, event }) => probe === 'oom' && event === 'kill');
    expect(victim.fields).toMatchObject({ comm: 'leaky', constraint: 'memcg' });
    expect(Object.values(victim.fields)).toContain('/small');
    const gone = await rig.event(({ probe, event }) => probe === 'oom' && event === 'gone');
    expect(gone.fields['pid']).toBe(victim.fields['pid']);

    for (const event of [segv, killed, victim, gone]) {
      expect(event.hostTimeErrorUs).not.toBeNull();
      // Host time is right within its own bound: the record cannot be younger than its reading.
      expect(event.latencyUs).toBeGreaterThan(-(event.hostTimeErrorUs ?? 0));
    }
    expect(rig.view.relay).toMatchObject({ lost: 0, gaps: 0, undecodable: 0, quarantined: 0 });
    expectNoComplaints(rig.machine.console());
  });
});
