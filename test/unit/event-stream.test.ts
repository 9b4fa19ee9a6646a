// SPDX-License-Identifier: Apache-2.0

/** Streams of events through the API of a service without guests: batches are put on its bus. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ApiClient } from '../../host/api/client.ts';
import { defaultMetricsAddress, MetricsServer, metricsAddress } from '../../host/api/metrics-server.ts';
import { ApiServer } from '../../host/api/server.ts';
import { ClockAlignment } from '../../host/guest/clock.ts';
import { EventBatch } from '../../host/guest/event-batch.ts';
import { ProbeTable } from '../../host/guest/probe-table.ts';
import { silentLog } from '../../host/log.ts';
import { RelayBatch } from '../../host/relay/batch.ts';
import { RecentEvents } from '../../host/service/recent-events.ts';
import { Service } from '../../host/service/service.ts';
import { EventSource, type ServerSentEvent } from '../harness/event-source.ts';

let directory: string;
let service: Service;
let api: ApiServer;
let written = 0;

const newService = () =>
  new Service({
    log: silentLog(),
    providers: [],
    relays: {
      open: () => {
        throw new Error('there are no guests');
      },
    },
    config: {
      runDirectory: join(directory, 'run'),
      stateDirectory: join(directory, 'state'),
      catalogueRoots: [],
      regionBytes: 1 << 20,
      heartbeatMs: 1_000,
    },
  });

beforeEach(async () => {
  written = 0;
  directory = mkdtempSync(join(tmpdir(), 'vesper-stream-'));
  service = newService();
  api = new ApiServer(service);
  await api.start();
});
afterEach(async () => {
  await api.stop();
  await service.stop();
  rmSync(directory, { recursive: true });
});

/** Events on the bus as a guest's relay would put them there; their numbers, from 0, are their sequence numbers. */
function publish(
  count: number,
  guest = 'web1',
  payloadBytes = 8,
  timesNs: readonly number[] = Array.from({ length: count }, () => 0),
): void {
  const zeros = new Uint16Array(count);
  const columns = new RelayBatch(
    {
      slot: zeros,
      event: zeros.slice().fill(7),
      cpu: zeros,
      ring: zeros.slice().fill(1),
      timeNs: Float64Array.from(timesNs),
      sequence: Float64Array.from({ length: count }, () => written++),
      payloadOffset: Uint32Array.from({ length: count }, (_, row) => row * payloadBytes),
      payloadBytes: new Uint32Array(count).fill(payloadBytes),
      arena: new Uint8Array(count * payloadBytes),
    },
    count,
  );
  const incarnation = { guest, uuid: `uuid of ${guest}`, bootId: '00' };
  service.bus.publish(new EventBatch(incarnation, new ProbeTable(), new ClockAlignment(), columns));
}

const numbers = (events: readonly ServerSentEvent[]) => events.map(({ data }) => data['sequence']);
const take = async (source: EventSource, count: number): Promise<readonly ServerSentEvent[]> => {
  const events = [];
  while (events.length < count) events.push(await source.next());
  return events;
};
const id = (number: number) => `${service.recent.id}-${number}`;

describe('a reader that comes back', () => {
  test('gets what came since its last event: each once, kept ones and new ones', async () => {
    publish(3);
    publish(3);
    await using source = await EventSource.open(api.path, {}, id(2));
    expect(numbers(await take(source, 4))).toEqual([2, 3, 4, 5]);
    publish(2);
    expect(numbers(await take(source, 2))).toEqual([6, 7]);
    expect(source.lastEventId).toBe(id(8));
  });

  test('had nothing yet: it knows from the beginning where it was', async () => {
    publish(3);
    const source = await EventSource.open(api.path);
    publish(1);
    await source.next();
    await source[Symbol.asyncDispose]();
    await using idle = await EventSource.open(api.path, { probe: 'none', follow: '0' });
    expect(await idle.rest()).toEqual([]);
    expect(idle.lastEventId).toBe(id(4));
  });

  test('is told how many are no longer kept, and gets the others', async () => {
    // 600 × 32 KiB, of which 8 MiB are kept.
    for (let batch = 0; batch < 600; batch += 1) publish(32, 'web1', 1_000);
    const { forgotten, seen } = service.recent;
    expect(forgotten).toBeGreaterThan(1_000);
    await using source = await EventSource.open(api.path, { follow: '0' }, id(100));
    const [missed, ...events] = await source.rest();
    expect(missed).toMatchObject({
      type: 'missed',
      data: { type: 'lost', count: forgotten - 100, reason: 'forgotten' },
    });
    expect(numbers(events)).toEqual(Array.from({ length: seen - forgotten }, (_, at) => forgotten + at));
  });

  test('of another service is told that nobody knows how many, and gets all that is kept', async () => {
    publish(2);
    await using source = await EventSource.open(api.path, { follow: '0' }, 'aaaaaaaaaaaa-17');
    const [missed, ...events] = await source.rest();
    expect(missed).toMatchObject({ type: 'missed', data: { count: null, reason: 'restarted' } });
    expect(numbers(events)).toEqual([0, 1]);
    expect(new RecentEvents().id).not.toBe(service.recent.id);
  });

  test('has its filter still; ids count what does not pass it, too', async () => {
    publish(2, 'web1');
    publish(2, 'db1');
    publish(2, 'web1');
    await using source = await EventSource.open(api.path, { where: 'x=1', follow: '0' }, id(1));
    expect(await source.rest()).toEqual([]);
    expect(source.lastEventId).toBe(id(6));
  });

  test('with an id that nobody gave is refused', async () => {
    publish(1);
    for (const wrong of ['x', id(2), `${service.recent.id}-`, '-1', `${id(1)}z`])
      await expect(EventSource.open(api.path, {}, wrong)).rejects.toThrow(/^400 .*no id of an event/s);
  });

  test('with lines of JSON says so by ?after=', async () => {
    publish(5);
    const lines = [];
    for await (const line of new ApiClient(api.path).events({ after: id(3), follow: '0' })) lines.push(line);
    expect(lines).toMatchObject([
      { type: 'event', sequence: 3, id: id(4) },
      { type: 'event', sequence: 4, id: id(5) },
    ]);
  });
});

test('events that were read together come in the order of guest time, and ids follow it', async () => {
  await using live = await EventSource.open(api.path);
  // Ring by ring: a death in the critical one, what led to it in the other.
  publish(5, 'web1', 8, [30, 50, 10, 20, 30]);
  publish(2, 'web1', 8, [5, 4]);
  const inTime = [2, 3, 0, 4, 1, 6, 5];
  const events = await take(live, 7);
  expect(numbers(events)).toEqual(inTime);
  expect(events.map(({ lastEventId }) => lastEventId)).toEqual([1, 2, 3, 4, 5, 6, 7].map(id));
  for (let after = 0; after < 7; after += 1) {
    await using again = await EventSource.open(api.path, { follow: '0' }, id(after));
    expect(numbers(await again.rest())).toEqual(inTime.slice(after));
  }
});

test('readers that go away in the middle do no harm', async () => {
  for (let batch = 0; batch < 200; batch += 1) publish(32, 'web1', 1_000);
  for (let round = 0; round < 20; round += 1) {
    const source = await EventSource.open(api.path, { follow: round % 2 === 0 ? '0' : '1' }, id(0));
    await source.next();
    const rest = source.rest().catch(() => undefined);
    await source[Symbol.asyncDispose]();
    publish(50);
    await rest;
  }
  await using source = await EventSource.open(api.path, { follow: '0' }, id(service.recent.seen - 1));
  expect(await source.rest()).toHaveLength(1);
});

test('a slow reader is told how many it missed, in the form it reads; a quick one misses none', async () => {
  await using slow = await EventSource.open(api.path);
  await using quick = await EventSource.open(api.path);
  const total = 60_000;
  for (let from = 0; from < total; from += 1_000) {
    publish(1_000);
    const events = await take(quick, 1_000);
    expect(numbers(events)).toEqual(Array.from({ length: 1_000 }, (_, at) => from + at));
  }
  let got = 0;
  let missed = 0;
  while (got + missed < total) {
    const { type, data } = await slow.next();
    if (type === 'missed') {
      expect(data['reason']).toBe('slow');
      missed += Number(data['count']);
    } else got += 1;
  }
  expect(got + missed).toBe(total);
  expect(missed).toBeGreaterThan(0);
  expect(got).toBeGreaterThan(0);
});

test('addresses for metrics', () => {
  expect(metricsAddress(true)).toEqual(metricsAddress(defaultMetricsAddress));
  expect(metricsAddress('0.0.0.0:80')).toEqual({ host: '0.0.0.0', port: 80 });
  expect(metricsAddress('[::1]:9787')).toEqual({ host: '::1', port: 9787 });
  for (const wrong of ['9787', ':9787', 'host:', 'host:70000', '::1:9787', '[web]:1', 'a b:1', ''])
    expect(() => metricsAddress(wrong), wrong).toThrow(/write HOST:PORT/);
});

test('two who ask for the page at once get the same; it is made anew for the next', async () => {
  const [one, two] = [service.metrics.page(), service.metrics.page()];
  expect(two).toBe(one);
  await one;
  expect(service.metrics.page()).not.toBe(one);
  expect(await service.metrics.page()).toMatch(/^vesper_sink_failures_total 0$/m);
});

test('docs/metrics.md has every metric of the service, and no other', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/metrics.md'), 'utf8');
  const table = page.slice(page.indexOf('## All the others'), page.indexOf('## The event stream'));
  const described = new Set(table.match(/(?<=`)(vesper|process)_[a-z_]+(?=`)/g));
  expect(described).toEqual(new Set(service.metrics.families().map(({ name }) => name)));
});

test('an address that is taken is named in the error', async () => {
  const page = () => Promise.resolve('');
  const first = new MetricsServer({ host: '127.0.0.1', port: 0 }, page);
  await first.start();
  const port = Number(new URL(first.url).port);
  const second = new MetricsServer({ host: '127.0.0.1', port }, page);
  await expect(second.start()).rejects.toThrow(`cannot offer metrics on 127.0.0.1:${port}: `);
  await second.stop();
  await first.stop();
});
