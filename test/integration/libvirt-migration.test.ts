// SPDX-License-Identifier: Apache-2.0

/** A probed domain moves to another libvirtd, which has a /dev/shm and a service of its own, as on another host. */

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ApiClient } from '../../host/api/client.ts';
import { apiSocketPath } from '../../host/service/config.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { LibvirtRig } from '../harness/libvirt-rig.ts';
import { Libvirtd } from '../harness/libvirtd.ts';
import { repository } from '../harness/rig.ts';

const patience = { timeout: 90_000, interval: 50 };
const deaths = 200;

/** A service at the daemon's host; it ends with the daemon. */
async function serveAt(daemon: Libvirtd): Promise<{ readonly api: ApiClient; log: () => string }> {
  const run = daemon.folder('v');
  const [program = '', ...before] = daemon.there;
  const child = spawn(
    program,
    [...before, process.execPath, join(repository, 'host/main.ts'), 'serve', '--libvirt', daemon.uri],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        VESPER_RUN_DIR: run,
        VESPER_STATE_DIR: join(run, 'state'),
        VESPER_CONFIG: '/dev/null',
      },
    },
  );
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  await expect.poll(() => log, patience).toContain('listening on');
  return { api: new ApiClient(apiSocketPath(run)), log: () => log };
}

test.skipIf(process.getuid?.() !== 0)(
  'a migration: the source hands over, the destination takes up, nothing is lost',
  async () => {
    await using other = await Libvirtd.start({ ownShm: true });
    await using rig = await LibvirtRig.create();
    await rig.service.start();
    const there = await serveAt(other);
    // Under TCG a precopy with RAM of a multiple of 256 KiB leaves stale pages (QEMU 7.2).
    const one = await rig.boot({ name: 'mover', memory: { size: 262_152, unit: 'KiB' } });
    await rig.attach(['signal'], ['signals=SIGSEGV'], 'mover');
    await rig.delivers(one, 'before');
    const bootId = rig.guest('mover').session?.incarnation.bootId;

    // It goes on to die while it moves.
    await one.guest.shell.post(`for n in $(seq ${deaths}); do actor --name n$n segv; done`);
    await rig.event(({ fields }) => fields['comm'] === 'n5');
    await one.domain.migrate(other.uri, {
      live: true,
      peerToPeer: true,
      uri: 'tcp://127.0.0.1',
      listenAddress: '127.0.0.1',
      bandwidthMibPerSecond: 1000,
    });
    await rig.until(() => rig.guest('mover').state === 'stopped');
    expect(rig.view('mover').reason).toBe('migrated to another host');
    await expect.poll(() => rig.regionFiles()).toEqual([]);

    const seenThere = new Set<string>();
    const reading = new AbortController();
    onTestFinished(() => reading.abort());
    await expect.poll(async () => (await there.api.guests())[0]?.state, patience).toBe('active');
    void (async () => {
      for await (const event of there.api.events({ since: '0', event: 'died' })) {
        seenThere.add(String((event['fields'] as Record<string, unknown>)['comm']));
        if (reading.signal.aborted) break;
      }
    })().catch(() => undefined); // it ends with its service
    const view = async () => (await there.api.guests())[0];
    const seenHere = () =>
      rig.events.filter(({ event }) => event === 'died').map(({ fields }) => String(fields['comm']));
    const seen = () => new Set([...seenHere(), ...seenThere].filter((comm) => /^n\d+$/.test(comm))).size;
    await expect.poll(() => seen(), patience).toBe(deaths);

    expect(await view()).toMatchObject({
      boot_id: bootId,
      reason: 'resumed',
      relay: { backend: 'ivshmem', lost: 0, gaps: 0, undecodable: 0, quarantined: 0 },
      probes: [{ name: 'signal', loaded: true }],
    });
    // However many of them were left for it.
    await one.guest.shell.run('actor --name after segv');
    await expect.poll(() => seenThere.has('after'), patience).toBe(true);
    expectNoComplaints(one.guest.console.text);
  },
);
