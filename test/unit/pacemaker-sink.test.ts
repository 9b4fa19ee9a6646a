// SPDX-License-Identifier: Apache-2.0

/** From rows of events to calls of the cluster's commands, which are processes here, too. */

import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLog } from '../../host/log.ts';
import type { EventDeclaration, FieldDeclaration } from '../../host/probe/declaration.ts';
import { RelayBatch } from '../../host/relay/batch.ts';
import { compileDecoder, type EventDecoder } from '../../host/relay/decoder.ts';
import { matchesGuest } from '../../host/service/guest-pattern.ts';
import { attributeName, explanation, type Incident } from '../../host/sink/pacemaker/incident.ts';
import { RateLimit } from '../../host/sink/pacemaker/rate-limit.ts';
import type { Rule } from '../../host/sink/pacemaker/rules.ts';
import { type PacemakerSettings, PacemakerSink } from '../../host/sink/pacemaker/sink.ts';
import { renderPage } from '../../host/sink/prometheus/page.ts';
import { MetricsPage } from '../harness/metrics-page.ts';
import { StandInCluster } from '../harness/stand-in-cluster.ts';

const number = (name: string, offset: number): FieldDeclaration => ({
  name,
  type: 'u32',
  offset,
  size: 4,
  role: 'label',
  unit: 'none',
  doc: '',
  values: undefined,
});
const chars = (name: string, offset: number, size: number, role: 'comm' | 'detail'): FieldDeclaration => ({
  ...number(name, offset),
  type: 'text',
  size,
  role,
});
const declare = (name: string, payloadBytes: number, ...fields: FieldDeclaration[]): EventDecoder => {
  const event: EventDeclaration = { id: 1, name, severity: 'critical', doc: '', payloadBytes, fields };
  return compileDecoder(event);
};
const died = declare(
  'died',
  44,
  number('signal', 0),
  number('kernel', 4),
  number('sender_tgid', 8),
  chars('comm', 12, 16, 'comm'),
  chars('sender_comm', 28, 16, 'comm'),
);
const kill = declare('kill', 56, chars('comm', 0, 16, 'comm'), chars('victim_memcg', 16, 40, 'detail'));
const panic = declare('panic', 16, chars('message', 0, 16, 'detail'));

interface Death {
  readonly signal?: number;
  readonly kernel?: number;
  readonly sender?: number;
  readonly comm?: string;
  readonly by?: string;
}

function deathOf({ signal = 11, kernel = 1, sender = 7, comm = 'httpd', by = comm }: Death): Buffer {
  const payload = Buffer.alloc(44);
  [signal, kernel, sender].forEach((value, at) => {
    payload.writeUInt32LE(value, 4 * at);
  });
  payload.write(comm, 12, 16);
  payload.write(by, 28, 16);
  return payload;
}
function killOf(comm: string, cgroup: string): Buffer {
  const payload = Buffer.alloc(56);
  payload.write(comm, 0, 16);
  payload.write(cgroup, 16, 40);
  return payload;
}

const uuid = '6a4a2e52-0000-4000-8000-000000000001';
let guestNs = 1e9;

function batchOf(probe: string, decoder: EventDecoder, payloads: readonly Buffer[], bootId = 'boot-1') {
  const count = payloads.length;
  const bytes = (decoder.declaration.payloadBytes + 7) & ~7;
  const arena = new Uint8Array(bytes * count);
  for (const [row, payload] of payloads.entries()) arena.set(payload, row * bytes);
  const zeros = new Uint16Array(count);
  const columns = new RelayBatch(
    {
      slot: zeros,
      event: zeros.slice().fill(1),
      cpu: zeros,
      ring: zeros,
      timeNs: Float64Array.from(payloads, () => (guestNs += 1_000)),
      sequence: new Float64Array(count),
      payloadOffset: Uint32Array.from(payloads, (_, row) => row * bytes),
      payloadBytes: Uint32Array.from(payloads, ({ length }) => length),
      arena,
    },
    count,
  );
  return {
    incarnation: { guest: 'web1', uuid, bootId },
    length: count,
    columns,
    probeName: () => probe,
    decoder: (row: number) => (decoder.fits(columns, row) ? decoder : undefined),
    hostTimeMs: () => Date.now(),
  };
}

const rule = (more: Partial<Rule> = {}): Rule => ({
  guest: 'web*',
  events: ['crash', 'oom'],
  process: 'httpd',
  fields: {},
  resource: 'web',
  action: 'fail',
  secondSign: false,
  where: 'v.yaml:9',
  ...more,
});

let cluster: StandInCluster;
let sinks: PacemakerSink[];
beforeEach(() => {
  cluster = new StandInCluster();
  sinks = [];
});
afterEach(() => {
  for (const sink of sinks) sink.close();
  cluster[Symbol.dispose]();
});

function start(settings: Partial<PacemakerSettings> = {}): PacemakerSink {
  const sink = new PacemakerSink({
    log: silentLog(),
    settings: {
      rules: [rule()],
      cooldownMs: 0,
      callsPerMinute: 60,
      keepMs: 60_000,
      dumpMs: 60_000,
      node: undefined,
      vms: {},
      ...settings,
    },
    commands: cluster.commands,
    ledgerPath: join(cluster.directory, 'ledger.json'),
    matchesGuest,
  });
  sinks.push(sink);
  sink.booted(uuid, 'web1', 'boot-1');
  sink.start();
  return sink;
}
const deaths = (...each: readonly Death[]) => batchOf('signal', died, each.map(deathOf));
const pageOf = async (sink: PacemakerSink) => new MetricsPage(await renderPage(sink.families()));
const outcomes = async (sink: PacemakerSink) =>
  Object.fromEntries(
    (await pageOf(sink))
      .all('vesper_pacemaker_incidents_total')
      .map(({ labels, value }) => [`${labels['action']} ${labels['outcome']}`, value]),
  );
const owed = async (sink: PacemakerSink) => (await pageOf(sink)).value('vesper_pacemaker_owed');
const becomes = (sink: PacemakerSink, expected: Readonly<Record<string, number>>) =>
  expect.poll(() => outcomes(sink)).toEqual(expected);
const failWeb = '--fail --resource web --node node1';

describe('what an event means', () => {
  test.each<[string, Death, boolean]>([
    ['a fault', { signal: 11 }, true],
    ['abort()', { signal: 6, kernel: 0 }, true],
    ['SIGKILL by somebody', { signal: 9, kernel: 0 }, true],
    ['SIGKILL by the kernel, while process 1 ran', { signal: 9, kernel: 1, sender: 1 }, true],
    ['SIGKILL by process 1', { signal: 9, kernel: 0, sender: 1, by: 'systemd' }, false],
    ['SIGKILL by what ends a system', { signal: 9, kernel: 0, sender: 900, by: 'killall5' }, false],
    ['SIGTERM', { signal: 15, kernel: 0 }, false],
    ['another process', { comm: 'httpd2' }, false],
    ['another process, whose name ends earlier', { comm: 'http' }, false],
  ])('%s: %j is a crash: %s', async (_, death, meant) => {
    const sink = start({ rules: [rule({ action: 'record' })] });
    sink.deliver(deaths(death));
    expect(await outcomes(sink)).toEqual(meant ? { 'record done': 1 } : {});
  });

  test.each<[string, Partial<Rule>, boolean]>([
    ['a process longer than the kernel keeps', { process: 'httpd-foreground' }, false],
    ['a pattern', { process: 'ht*d' }, true],
    ['a unit', { process: undefined, cgroup: 'web.service' }, true],
    ['another unit', { process: undefined, cgroup: 'eb.service' }, false],
    ['a path', { process: undefined, cgroup: '/system.slice/*' }, true],
    ['another guest', { guest: 'db*' }, false],
    ['a field', { events: ['oom.kill'], fields: { comm: 'httpd' } }, true],
    ['a field that it has not', { events: ['oom.kill'], fields: { colour: 'red' } }, false],
  ])('an OOM kill, by %s: %j: %s', async (_, more, meant) => {
    const sink = start({ rules: [rule({ ...more, action: 'attribute' })] });
    cluster.trouble = 'exit 102';
    sink.deliver(batchOf('oom', kill, [killOf('httpd', '/system.slice/web.service')]));
    expect(await owed(sink)).toBe(meant ? 1 : 0);
    // What nobody listed is recorded.
    expect(await outcomes(sink)).toEqual(meant ? {} : { 'record done': 1 });
  });

  test('of two rules the later one counts', async () => {
    const sink = start({ rules: [rule(), rule({ action: 'record' })] });
    sink.deliver(deaths({}));
    expect(await outcomes(sink)).toEqual({ 'record done': 1 });
    expect(await owed(sink)).toBe(0);
  });

  test('silence means nothing without a second sign, nor does the same one again', async () => {
    const sink = start({ vms: { web1: 'web' } });
    sink.told(uuid, 'web1', 'silence', 'no answer');
    sink.told(uuid, 'web1', 'silence', 'no answer');
    expect(await owed(sink)).toBe(0);
    sink.sign(uuid, 'web1', 'heartbeat');
    await becomes(sink, { 'fail done': 1 });
    expect(cluster.calls).toEqual([failWeb]);
  });
});

describe('a call', () => {
  test('10,000 events are one, and the count of them is shown', async () => {
    const sink = start();
    sink.deliver(batchOf('oom', kill, Array(10_000).fill(killOf('httpd', '/'))));
    await becomes(sink, { 'fail done': 1 });
    expect(cluster.calls).toEqual([failWeb]);
    expect(cluster.attributes.at(-1)).toMatch(
      /^--name vesper-web --update .*\(10000 events\); failed on node1 /,
    );
    expect((await pageOf(sink)).value('vesper_pacemaker_events_total')).toBe(10_000);
  });

  test('a panic is told by the guest and by the hypervisor, and is one', async () => {
    const sink = start({ vms: { web1: 'web' } });
    sink.deliver(batchOf('frontend', panic, [Buffer.from('Fatal exception\0')]));
    sink.told(uuid, 'web1', 'panic', 'kernel panic');
    // The hypervisor stops a machine that panicked.
    sink.paused(uuid, 'web1', true);
    await becomes(sink, { 'fail done': 1 });
    sink.told(uuid, 'web1', 'panic', 'kernel panic');
    expect(await owed(sink)).toBe(0);
    expect(cluster.calls).toHaveLength(1);
  });

  test('not for a machine that is paused, nor for a boot that is over', async () => {
    const sink = start();
    sink.paused(uuid, 'web1', true);
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail guest_paused': 1 });
    sink.paused(uuid, 'web1', false);
    sink.ended(uuid, 'web1', 'the guest rebooted');
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail guest_paused': 1, 'fail guest_rebooted': 1 });
    sink.booted(uuid, 'web1', 'boot-2');
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail guest_paused': 1, 'fail guest_rebooted': 2 });
    expect(cluster.calls).toEqual([]);
    sink.deliver(batchOf('signal', died, [deathOf({})], 'boot-2'));
    await becomes(sink, { 'fail guest_paused': 1, 'fail guest_rebooted': 2, 'fail done': 1 });
  });

  test('held while the guest writes a crash dump, and not for ever', async () => {
    const sink = start({ vms: { web1: 'web' }, dumpMs: 1_500 });
    sink.dumping(uuid, 'web1');
    const at = Date.now();
    sink.told(uuid, 'web1', 'panic', 'kernel panic');
    await becomes(sink, { 'fail done': 1 });
    expect(Date.now() - at).toBeGreaterThan(1_500);
  });

  test('where the cluster is not there, or frozen, it is owed, and made when it is back', async () => {
    const sink = start();
    cluster.trouble = 'exit 102';
    sink.deliver(deaths({}));
    await expect.poll(() => sink.problem).toMatch(/exit status 102/);
    cluster.trouble = 'exec sleep 1000';
    await expect.poll(() => sink.problem).toMatch(/no answer within 2 s/);
    expect(await owed(sink)).toBe(1);
    expect(cluster.calls).toEqual([]);
    cluster.trouble = '';
    await becomes(sink, { 'fail done': 1 });
    expect([cluster.calls, sink.problem]).toEqual([[failWeb], undefined]);
  });

  test('is given up when it is owed for too long, or refused', async () => {
    const sink = start({ keepMs: 1 });
    cluster.trouble = 'exit 102';
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail given_up': 1 });
    cluster.trouble = 'echo no right >&2; exit 4';
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail given_up': 1, 'fail failed': 1 });
    expect(sink.problem).toMatch(/exit status 4: no right/);
  });

  test('waits for the cooldown of its resource', async () => {
    const sink = start({ cooldownMs: 2_500 });
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail done': 1 });
    cluster.say('running');
    sink.deliver(deaths({}));
    await becomes(sink, { 'fail done': 2 });
    const [first = 0, second = 0] = cluster.callTimes;
    expect(second - first).toBeGreaterThanOrEqual(2_500);
  });

  test.each(['Sat Nov 21 16:40:23 1998', 'Sat Nov 21 16:40:23 2099'])(
    'is made where a guest says when the resource was started, and it says %s',
    async (time) => {
      cluster.startedByGuest = time;
      const sink = start();
      sink.deliver(deaths({}));
      await becomes(sink, { 'fail done': 1 });
      expect(cluster.calls).toEqual([failWeb]);
    },
  );

  test('is not made again by a service that comes after one that was killed', async () => {
    const first = start();
    const events = deaths({}, {});
    cluster.idle = true;
    first.deliver(events);
    await expect.poll(() => cluster.calls).toHaveLength(1);
    // Killed: nothing is closed or saved. The ring gives its records once more.
    const second = start();
    second.deliver(events);
    expect(await owed(second)).toBe(1);
    cluster.say('failed');
    await expect.poll(() => cluster.attributes.length).toBeGreaterThan(0);
    expect(cluster.calls).toHaveLength(1);
  });

  test('is known after it is over: its records may be read once more', async () => {
    const first = start();
    const events = deaths({}, {});
    first.deliver(events);
    await becomes(first, { 'fail done': 1 });
    const second = start();
    second.deliver(events);
    expect(await owed(second)).toBe(0);
  });
});

test('no more calls in a minute than said', () => {
  const limit = new RateLimit(2);
  expect([0, 1_000, 2_000, 59_999, 60_000, 60_001].map((at) => limit.take(at))).toEqual([
    0, 0, 58_000, 1, 0, 999,
  ]);
});

test('what a guest calls its processes does not get into the cluster as it is', () => {
  const incident = {
    guest: 'web1',
    event: 'crash',
    evidence: `comm=<a href="x">'\u001b[2J\n$(reboot)é ${'x'.repeat(500)}`,
    count: 3,
    firstMs: 0,
  } as Incident;
  const text = explanation(incident, 'failed on node1');
  expect(text).toMatch(
    /^1970-01-01T00:00:00.000Z web1: crash: comm=\?a href=\?x\?\?\?\?\[2J\?\?\(reboot\)\? x+/,
  );
  expect(text).toMatch(/\(3 events\); failed on node1$/);
  expect(text.length).toBeLessThanOrEqual(300);
  expect(attributeName('web')).toBe('vesper-web');
});
