// SPDX-License-Identifier: Apache-2.0

/** One service with two hundred guests: two real ones, the others stand-ins with channels and regions of their own. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ApiClient } from '../../host/api/client.ts';
import { ApiServer } from '../../host/api/server.ts';
import type { GuestView, ProbeResult } from '../../host/api/view.ts';
import { Machine } from '../../host/demo/machine.ts';
import { silentLog } from '../../host/log.ts';
import { readImage } from '../../host/probe/image.ts';
import { QemuProvider } from '../../host/provider/qemu/provider.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import { apiSocketPath, defaultHeartbeatMs } from '../../host/service/config.ts';
import { Service } from '../../host/service/service.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { leftovers, probePath, repository, track } from '../harness/rig.ts';
import { StandInPeer, StandInProvider } from '../harness/stand-in-fleet.ts';

const standIns = 198;
/** By number: its hypervisor never answers; it says nothing at all; it takes no push. */
const unreachable = 10;
const dumb = 20;
const stuck = 30;
const patienceMs = 120_000;

describe('with two hundred guests', () => {
  let directory: string;
  let machines: Machine[] = [];
  const peers: StandInPeer[] = [];
  let hub: RelayHub;
  let service: Service;
  let api: ApiServer;
  let client: ApiClient;
  /** The attach that the guest has which takes no push. */
  let hopeless: Promise<unknown>;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));
    machines = await Promise.all([Machine.boot({ memoryMib: 128 }), Machine.boot({ memoryMib: 128 })]);
    machines.forEach(track);
    for (let number = 0; number < standIns; number += 1)
      peers.push(await StandInPeer.start(directory, number));
    peer(dumb).mute = () => true;
    peer(stuck).mute = ({ name }) => name === 'push_begin';
    const log = silentLog();
    hub = new RelayHub();
    service = new Service({
      log,
      relays: hub,
      providers: [
        new QemuProvider({
          monitors: machines.map(({ name, qmpPath }) => ({ name, path: qmpPath })),
          runtimeDirectory: join(directory, 'qemu'),
          log,
        }),
        new StandInProvider(directory, standIns, [unreachable]),
      ],
      config: {
        runDirectory: join(directory, 'run'),
        stateDirectory: join(directory, 'state'),
        catalogueRoots: [join(repository, 'build')],
        regionBytes: undefined,
        heartbeatMs: defaultHeartbeatMs,
      },
    });
    api = new ApiServer(service);
    await api.start();
    await service.start();
    client = new ApiClient(apiSocketPath(service.config.runDirectory));
  });

  afterAll(async () => {
    await api?.stop();
    await service?.stop({ limitMs: 1_000 });
    hub?.close();
    await Promise.all([
      ...machines.map((machine) => machine.close()),
      ...peers.map((one) => one[Symbol.asyncDispose]()),
    ]);
    rmSync(directory, { recursive: true, force: true });
    expect(leftovers()).toEqual([]);
  });

  function peer(number: number): StandInPeer {
    const found = peers[number];
    if (found === undefined) throw new Error(`there is no stand-in ${number}`);
    return found;
  }

  const nameOf = (number: number): string => peer(number).place.name;
  const others = () => peers.filter((_, number) => ![unreachable, dumb, stuck].includes(number));
  const healthy = () => [...machines.map(({ name }) => name), ...others().map(({ place }) => place.name)];

  const attach = (guest: string): Promise<readonly ProbeResult[]> =>
    client.attach(guest, { probes: ['signal'], parameters: [], self_test: false, force: false });

  /** The guests once `holds` of all those that are not stuck. */
  async function once(holds: (guest: GuestView) => boolean): Promise<ReadonlyMap<string, GuestView>> {
    const names = healthy();
    let seen = new Map<string, GuestView>();
    await expect
      .poll(
        async () => {
          seen = new Map((await client.guests()).map((guest) => [guest.name, guest]));
          return names.filter((name) => {
            const guest = seen.get(name);
            return guest === undefined || !holds(guest);
          });
        },
        { timeout: patienceMs, interval: 200 },
      )
      .toEqual([]);
    return seen;
  }

  test('all have their sessions but those that cannot, which hold up nobody', async () => {
    const guests = await once(({ state }) => state === 'active');
    expect(guests.size).toBe(machines.length + standIns);
    expect(guests.get(nameOf(stuck))).toMatchObject({ state: 'active' });
    expect(guests.get(nameOf(unreachable))).toMatchObject({ state: 'running', reason: 'found' });
    expect(guests.get(nameOf(dumb))).toMatchObject({ state: 'running' });
  });

  test('an attach to all of them at once reaches all of them, while one takes none and never will', async () => {
    hopeless = attach(nameOf(stuck)).then(
      () => 'taken',
      () => 'not taken',
    );
    const results = await Promise.all(healthy().map(attach));
    expect(results.flat().filter(({ ok }) => !ok)).toEqual([]);
    expect(results.flat()).toHaveLength(machines.length + standIns - 3);
    expect(peer(stuck).requests).toContain('push_begin');
    const guests = new Map((await client.guests()).map((guest) => [guest.name, guest]));
    expect(guests.get(nameOf(stuck))?.probes).toMatchObject([
      { name: 'signal', wanted: true, loaded: false },
    ]);
  });

  test('what all of them write at once arrives, each record once', async () => {
    const event = (await readImage(probePath('6.1', 'signal'))).declaration?.events[0];
    if (event === undefined) throw new Error('the probe declares no event');
    const payload = new Uint8Array(event.payloadBytes);
    const [rounds, each] = [5, 40];
    for (let round = 0; round < rounds; round += 1)
      for (const one of others()) one.write(event.id, payload, each);
    await Promise.all(machines.map((machine) => machine.run('actor --name scaled segv')));
    const guests = await once(({ relay, provider }) =>
      provider === 'qemu' ? (relay?.delivered ?? 0) > 0 : relay?.delivered === rounds * each,
    );
    for (const name of healthy())
      expect(guests.get(name)?.relay).toMatchObject({ lost: 0, gaps: 0, undecodable: 0, quarantined: 0 });
  });

  test('those that were stuck get what is wanted by themselves, when they no longer are', async () => {
    expect(await hopeless).toBe('not taken');
    peer(stuck).mute = () => false;
    peer(dumb).mute = () => false;
    const guest = async (number: number) => client.guest(nameOf(number));
    await expect
      .poll(() => guest(stuck), { timeout: patienceMs })
      .toMatchObject({ probes: [{ loaded: true }] });
    await expect.poll(() => guest(dumb), { timeout: patienceMs }).toMatchObject({ state: 'active' });
  });

  test('a detach of all of them at once unloads everywhere', async () => {
    const results = await Promise.all(healthy().map((name) => client.detach(name, [])));
    expect(results.flat().filter(({ ok }) => !ok)).toEqual([]);
    const guests = await once(({ probes }) => probes.length === 0);
    for (const name of healthy()) expect(guests.get(name)).toMatchObject({ state: 'active', past: [] });
    for (const machine of machines) expectNoComplaints(machine.console());
  });

  test('the service ends although a hypervisor never answers, and names its guest', async () => {
    await api.stop();
    // Else nobody removes what was plugged into the real ones.
    await Promise.all(machines.map((machine) => machine.kill()));
    const real = () => service.guests().filter(({ machine }) => machine.provider === 'qemu');
    await expect.poll(() => real().map(({ state }) => state)).toEqual(['stopped', 'stopped']);
    expect(await service.stop({ limitMs: 2_000 })).toEqual([nameOf(unreachable)]);
  });
});
