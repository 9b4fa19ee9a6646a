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
import { IncidentFiles } from '../../host/sink/pacemaker/incident-files.ts';
import { RateLimit } from '../../host/sink/pacemaker/rate-limit.ts';
import type { Rule } from '../../host/sink/pacemaker/rules.ts';
import { type PacemakerSettings, PacemakerSink } from '../../host/sink/pacemaker/sink.ts';
import { renderPage } from '../../host/sink/prometheus/page.ts';
import { MetricsPage } from '../harness/metrics-page.ts';
import { recordedXml, StandInCluster } from '../harness/stand-in-cluster.ts';

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
  48,
  number('signal', 0),
  number('kernel', 4),
  number('sender_tgid', 8),
  chars('comm', 12, 16, 'comm'),
  chars('sender_comm', 28, 16, 'comm'),
  number('pid', 44),
);
const kill = declare('kill', 56, chars('comm', 0, 16, 'comm'), chars('victim_memcg', 16, 40, 'detail'));
const panic = declare('panic', 16, chars('message', 0, 16, 'detail'));

interface Death {
  readonly signal?: number;
  readonly kernel?: number;
  readonly sender?: number;
  readonly comm?: string;
  readonly by?: string;
  readonly pid?: number;
}

function deathOf({
  signal = 11,
  kernel = 1,
  sender = 7,
  comm = 'httpd',
  by = comm,
  pid = 100,
}: Death): Buffer {
  const payload = Buffer.alloc(48);
  payload.writeUInt32LE(pid, 44);
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

function start(settings: Partial<PacemakerSettings> = {}, pidGone?: (uuid: string) => void): PacemakerSink {
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
    incidentsPath: join(cluster.directory, 'incidents'),
    lastEvents: (...asked) => [{ type: 'event', asked }],
    pidGone,
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
    ['a unit of systemd', { process: undefined, unit: 'web' }, true],
    ['one by its whole name', { process: undefined, unit: 'web.service' }, true],
    ['one around it', { process: undefined, unit: 'system.slice' }, true],
    ['a pattern of units', { process: undefined, unit: 'w*' }, true],
    ['a part of a name', { process: undefined, unit: 'eb' }, false],
    ['a unit that is another process', { process: 'nginx', unit: 'web' }, false],
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

  test('a process is known by its pid file, as it was read last', async () => {
    const file = '/run/httpd.pid';
    const gone: string[] = [];
    const rules = [rule({ process: undefined, pidFile: file, action: 'attribute' })];
    const sink = start({ rules }, (one) => gone.push(one));
    expect(sink.pidFiles(uuid, 'web1')).toEqual([file]);
    cluster.trouble = 'exit 102';
    const dies = async (pid: number) => {
      sink.deliver(deaths({ pid, comm: 'any' }));
      return owed(sink);
    };
    expect(await dies(7)).toBe(0);
    sink.pidRead(uuid, 'web1', file, 7);
    expect([await dies(70), gone]).toEqual([0, []]);
    expect([await dies(7), gone]).toEqual([1, [uuid]]);
    // The daemon that crashed left its file, and another process got its number.
    sink.pidRead(uuid, 'web1', file, 7);
    await dies(7);
    expect((await pageOf(sink)).value('vesper_pacemaker_events_total')).toBe(1);
    sink.pidRead(uuid, 'web1', file, 8);
    await dies(8);
    expect((await pageOf(sink)).value('vesper_pacemaker_events_total')).toBe(2);
    sink.pidRead(uuid, 'web1', file, 9);
    sink.booted(uuid, 'web1', 'boot-2');
    await dies(9);
    expect((await pageOf(sink)).value('vesper_pacemaker_events_total')).toBe(2);
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
      /^--name vesper-web --update .*\(10000 events\); failed on node1; vesper incidents \w+ --node node1/,
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

describe('a node that is fenced', () => {
  /** web1 is a remote node by itself, and the cluster may fence. */
  const remote = (fencing = true) =>
    recordedXml('running')
      .replace(' id_as_resource="vm-web1"', '')
      .replace('stonith-enabled="false"', `stonith-enabled="${fencing}"`);
  const fencing = { rules: [rule({ action: 'fence', resource: undefined })], nodes: { web1: 'web1' } };
  const fenceWeb1 = '--reboot web1 --timeout 120';

  test('once, and the cluster shows why on this node', async () => {
    cluster.sayXml(remote());
    const sink = start(fencing);
    sink.deliver(deaths({}, {}));
    await becomes(sink, { 'fence done': 1 });
    expect(cluster.calls).toEqual([fenceWeb1]);
    expect(cluster.attributes).toEqual([
      expect.stringMatching(
        /^--name vesper-web1 --update .*: crash: .*; web1 was fenced; .* --node node1 --lifetime reboot$/,
      ),
    ]);
  });

  test('three times at most where it fails', { timeout: 15_000 }, async () => {
    cluster.sayXml(remote());
    cluster.idle = true;
    const sink = start(fencing);
    sink.deliver(deaths({}));
    await expect.poll(() => outcomes(sink), { timeout: 12_000 }).toEqual({ 'fence unconfirmed': 1 });
    expect(cluster.calls).toEqual([fenceWeb1, fenceWeb1, fenceWeb1]);
  });

  test('not where the cluster does not fence', async () => {
    cluster.sayXml(remote(false));
    const sink = start(fencing);
    sink.deliver(deaths({}));
    await becomes(sink, { 'fence no_fencing': 1 });
    expect(cluster.calls).toEqual([]);
    const [incident] = sink.incidents.list();
    expect(sink.incidents.get(incident?.id ?? '').steps.at(-1)?.text).toBe(
      'web1 is not fenced: fencing is disabled in the cluster (stonith-enabled)',
    );
  });

  test('by its machine where it is a guest node that no device is for', async () => {
    const running = recordedXml('running').replace(
      /<resource id="vm-web1"([^>]*)role="Stopped"([^>]*)\/>/,
      '<resource id="vm-web1"$1role="Started"$2><node name="node1" id="1" cached="true"/></resource>',
    );
    cluster.sayXml(running);
    cluster.idle = true;
    const sink = start({ ...fencing, nodes: {} });
    sink.deliver(deaths({}));
    await expect.poll(() => cluster.calls).toEqual(['--fail --resource vm-web1 --node node1']);
  });

  test('is not fenced again by a service that comes after one that was killed', async () => {
    cluster.sayXml(remote());
    const first = start(fencing);
    const events = deaths({});
    cluster.held = true;
    first.deliver(events);
    await expect.poll(() => cluster.calls).toHaveLength(1);
    const second = start(fencing);
    second.deliver(events);
    await becomes(second, { 'fence done': 1 });
    cluster.held = false;
    expect(cluster.calls).toEqual([fenceWeb1]);
  });
});

describe('what is kept of an incident', () => {
  test('what happened, what was done, and the events before', async () => {
    const sink = start();
    sink.deliver(deaths({}, {}));
    await becomes(sink, { 'fail done': 1 });
    const [incident] = sink.incidents.list();
    expect(incident).toMatchObject({
      guest: 'web1',
      boot_id: 'boot-1',
      event: 'crash',
      rule: 'v.yaml:9',
      action: 'fail',
      resource: 'web',
      count: 2,
      calls: 1,
      outcome: 'done',
    });
    const { steps, events } = sink.incidents.get(incident?.id ?? '');
    expect(steps.map(({ text }) => text)).toEqual([
      'failing web on node1',
      'web was failed on node1',
      'web was failed on node1, and it was started anew',
    ]);
    expect(events).toEqual([{ type: 'event', asked: [uuid, 'boot-1', 64] }]);
    expect(cluster.attributes.at(-1)).toContain(`; vesper incidents ${incident?.id} `);
  });

  test('what is recorded only, too; what is not there is not found', async () => {
    const sink = start();
    sink.deliver(batchOf('oom', kill, [killOf('other', '/')]));
    expect(sink.incidents.list()).toMatchObject([{ action: 'record', outcome: 'done', event: 'oom' }]);
    expect(() => sink.incidents.get('../../etc/passwd')).toThrow(
      expect.objectContaining({ code: 'NOT_FOUND' }),
    );
  });

  test('no guest has more than 32, and the events in each are bounded', () => {
    const files = new IncidentFiles(join(cluster.directory, 'many'), silentLog());
    const other = uuid.replace('6a', '6b');
    const big = Array.from({ length: 100 }, (_, at) => ({ at, text: 'x'.repeat(10_000) }));
    const incident = { steps: [], firstMs: 0, lastMs: 0, bootId: '', where: '', guest: '', event: '' };
    const open = (of: string) =>
      files.open(
        {
          ...incident,
          id: files.newId(),
          uuid: of,
          evidence: '',
          action: 'fail',
          count: 1,
          calls: 0,
          lastNs: 0,
        },
        null,
        big,
      );
    open(other);
    for (let at = 0; at < 40; at += 1) open(uuid);
    const kept = files.list();
    expect(kept.filter((one) => one.uuid === uuid)).toHaveLength(32);
    expect(kept.at(-1)?.uuid).toBe(other);
    const { events } = files.get(kept[0]?.id ?? '');
    expect(events.at(-1)).toMatchObject({ at: 99 });
    expect(JSON.stringify(events).length).toBeLessThan(140_000);
    expect(events.length).toBeGreaterThan(10);
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
    id: 'mip1w2k9',
  } as Incident;
  const text = explanation(incident, 'failed on node1');
  expect(text).toMatch(
    /^1970-01-01T00:00:00.000Z web1: crash: comm=\?a href=\?x\?\?\?\?\[2J\?\?\(reboot\)\? x+/,
  );
  expect(text).toMatch(/\(3 events\); failed on node1; vesper incidents mip1w2k9$/);
  expect(text.length).toBeLessThanOrEqual(300);
  expect(attributeName('web')).toBe('vesper-web');
});
