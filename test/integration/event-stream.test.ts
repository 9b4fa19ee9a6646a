// SPDX-License-Identifier: Apache-2.0

/** Readers of the event stream that go away and come back: with Server-Sent Events, and with lines of JSON. */

import { afterAll, expect, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { apiSocketPath } from '../../host/service/config.ts';
import { EventSource } from '../harness/event-source.ts';
import { leftovers, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

test('a reader that comes back goes on after its last event, also after a restart of the service, and is told what is gone', async () => {
  const machine = await Machine.boot();
  await using service = new ServiceProcess(machine);
  await service.start();
  await service.guestUntil(({ state }) => state === 'active');
  const attached = await service.vesper('attach', machine.name, 'signal');
  expect(attached.status).toBe(0);
  const socket = apiSocketPath(service.directory);
  const deaths = { probe: 'signal', event: 'died' };
  const die = (name: string) => machine.run(`actor --name ${name} segv`);
  const comm = ({ fields }: Readonly<Record<string, unknown>>) => (fields as Record<string, unknown>)['comm'];
  /** Resolves when the service has the event. */
  const known = async (name: string) => {
    for await (const _ of service.api.events({ since: '0', where: `comm=${name}`, ...deaths })) return;
  };

  let last: string;
  {
    await using source = await EventSource.open(socket, deaths);
    await die('first');
    const event = await source.next();
    expect(event).toMatchObject({ type: 'message', data: { type: 'event', guest: machine.name } });
    expect(comm(event.data)).toBe('first');
    expect(event.data['id']).toBe(event.lastEventId);
    last = event.lastEventId;
  }

  await die('second');
  await known('second');
  {
    await using source = await EventSource.open(socket, deaths, last);
    expect(comm((await source.next()).data)).toBe('second');
    await die('third');
    expect(comm((await source.next()).data)).toBe('third');
    // The same as lines.
    const lines = [];
    for await (const line of service.api.events({ ...deaths, after: last, follow: '0' }))
      lines.push(comm(line));
    expect(lines).toEqual(['second', 'third']);
    const printed = await service.vesper(
      'events',
      '--json',
      '--event',
      'died',
      '--after',
      source.lastEventId,
    );
    expect(printed).toEqual({ status: 0, stdout: '', stderr: '' });
    last = source.lastEventId;
  }

  await service.kill();
  await die('unseen');
  await service.start();
  await service.guestUntil(({ state }) => state === 'active');
  {
    await using source = await EventSource.open(socket, deaths, last);
    expect(await source.next()).toMatchObject({ type: 'missed', data: { count: null, reason: 'restarted' } });
    const event = await source.next();
    expect(comm(event.data)).toBe('unseen');
    last = event.lastEventId;
  }

  // More than is kept: 8 MiB.
  await machine.run('actor storm 150000 1');
  await die('late');
  await known('late');
  {
    await using source = await EventSource.open(socket, { follow: '0' }, last);
    const [missed, ...events] = await source.rest();
    expect(missed).toMatchObject({ type: 'missed', data: { reason: 'forgotten' } });
    // All that came since then is either sent or told of.
    const numberOf = (id: string) => Number(id.split('-')[1]);
    const count = Number(missed?.data['count']);
    expect(count).toBeGreaterThan(0);
    expect(events.every(({ type }) => type === 'message')).toBe(true);
    expect(count + events.length).toBe(numberOf(source.lastEventId) - numberOf(last));
    expect(events.map(({ data }) => comm(data))).toContain('late');
  }
});
