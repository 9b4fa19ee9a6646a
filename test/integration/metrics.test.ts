// SPDX-License-Identifier: Apache-2.0

/** The page for Prometheus, of real guests: read by promtool, and scraped by a real Prometheus while guests are in trouble. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { MetricsServer } from '../../host/api/metrics-server.ts';
import { Machine } from '../../host/demo/machine.ts';
import { MetricsPage } from '../harness/metrics-page.ts';
import { Prometheus, promtoolComplaints } from '../harness/prometheus.ts';
import { fixturePath, leftovers, Rig, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

test('vesper metrics, and --metrics over TCP: what the guest did is on the page, and promtool has no complaint', async () => {
  const machine = await Machine.boot();
  const directory = mkdtempSync(join(tmpdir(), `vesper-rig-${process.pid}-`));
  await using service = new ServiceProcess(machine, directory, { more: ['--metrics', '127.0.0.1:0'] });
  await service.start();
  await service.guestUntil(({ state }) => state === 'active');
  const attached = await service.vesper('attach', machine.name, 'signal', 'oom');
  expect(attached.status).toBe(0);
  await machine.run('actor --name first segv; actor --name second segv; actor --name third abort');
  await machine.run('actor --name leaky eat');
  for await (const _ of service.api.events({ since: '0', event: 'gone' })) break;
  const failing = fixturePath('6.1', 'initfail');
  expect((await service.vesper('attach', machine.name, '--no-self-test', failing)).status).toBe(4);
  // Faster than anybody reads.
  const storm = [
    '--no-self-test',
    fixturePath('6.1', 'storm'),
    '--param',
    'start=1',
    '--param',
    'records=300000',
  ];
  expect((await service.vesper('attach', machine.name, ...storm)).status).toBe(0);
  for await (const _ of service.api.events({ since: '0', event: 'finished' })) break;
  await service.vesper('detach', machine.name, 'storm');

  const { status, stdout } = await service.vesper('metrics');
  expect(status).toBe(0);
  expect(promtoolComplaints(stdout)).toBe('');
  const page = new MetricsPage(stdout);
  const guest = { guest: machine.name };
  const died = 'vesper_signal_died_total';
  expect(page.value(died, { ...guest, signal: 'SIGSEGV', code: 'SEGV_MAPERR', kernel: 'yes' })).toBe(2);
  expect(page.value(died, { ...guest, signal: 'SIGABRT' })).toBe(1);
  expect(page.value('vesper_oom_kill_total', { ...guest, constraint: 'none' })).toBe(1);
  expect(page.value('vesper_oom_kill_anon_bytes_sum', guest)).toBeGreaterThan(32 << 20);
  expect(page.value('vesper_oom_gone_took_seconds_count', guest)).toBe(1);
  expect(page.value('vesper_guest_state', { ...guest, state: 'active' })).toBe(1);
  expect(page.sum('vesper_guest_state', guest)).toBe(1);
  expect(page.value('vesper_guest_sessions_total', { ...guest, kind: 'activated' })).toBe(1);
  expect(page.value('vesper_probe_pushes_total', { ...guest, probe: 'oom', result: 'loaded' })).toBe(1);
  expect(page.value('vesper_probe_unloads_total', { ...guest, probe: 'storm' })).toBe(1);
  const failed = page.all('vesper_probe_pushes_total', { ...guest, probe: 'initfail' });
  expect(failed).toMatchObject([{ labels: { result: expect.stringMatching(/^E[A-Z]+$/) }, value: 1 }]);
  // What the probe could not write is what is counted as lost.
  const lost = page.value('vesper_guest_records_lost_total', { ...guest, ring: 'other' });
  expect(lost).toBe(page.value('vesper_storm_finished_refused_sum', guest));
  expect(page.value('vesper_storm_blast_total', { ...guest, thread: '0' }) + lost).toBe(300_000);
  // The page agrees with the API, and both accounts of what was lost with each other.
  const { relay } = await service.api.guest(machine.name);
  expect(page.sum('vesper_guest_records_lost_total', guest)).toBe(relay?.lost);
  expect(page.sum('vesper_guest_records_missing_total', guest)).toBe(relay?.gaps);
  expect(page.sum('vesper_events_total', guest)).toBe(
    page.sum('vesper_guest_records_delivered_total', guest),
  );
  expect(page.value('vesper_event_latency_seconds_count', guest)).toBe(
    page.sum('vesper_events_total', guest),
  );
  expect(page.all('vesper_ring_size_bytes', guest)).toHaveLength(2);

  const [, url = ''] = /metrics on (http:\S+\/metrics)/.exec(service.log) ?? [];
  const answer = await fetch(url);
  expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  expect(new MetricsPage(await answer.text()).value(died, { signal: 'SIGABRT' })).toBe(1);
  // Nothing else is to be had there.
  expect((await fetch(new URL('/v1/guests', url))).status).toBe(404);
  expect((await fetch(url, { method: 'POST' })).status).toBe(404);
});

test('Prometheus scrapes every second while one guest reboots and another is stuck: no scrape fails, and all of it shows', async () => {
  const stuck = await Machine.boot();
  const rig = await Rig.start({ heartbeatMs: 300, neighbours: [stuck] });
  onTestFinished(() => rig.close());
  const other = await rig.service.guestFound(stuck.name, 90_000);
  await other.active(90_000);
  await rig.attach(['signal']);
  const server = new MetricsServer({ host: '127.0.0.1', port: 0 }, () => rig.service.metrics.page());
  await server.start();
  onTestFinished(() => server.stop());
  await using prometheus = await Prometheus.start(new URL(server.url).host);
  const is = (value: number) => (samples: readonly { readonly value: number }[]) =>
    samples[0]?.value === value;
  const active = (name: string) => `vesper_guest_state{guest="${name}",state="active"}`;
  const sessions = `vesper_guest_sessions_total{guest="${rig.machine.name}",kind="activated"}`;
  const died = `sum(vesper_signal_died_total{guest="${rig.machine.name}",signal="SIGSEGV"})`;
  await rig.machine.run('actor --name before segv');
  await prometheus.until(active(rig.machine.name), is(1));
  await prometheus.until(active(stuck.name), is(1));
  await prometheus.until(sessions, is(1));
  await prometheus.until(died, is(1));

  process.kill(stuck.pid, 'SIGSTOP');
  try {
    const position = rig.machine.consolePosition();
    await rig.machine.post('reboot -f');
    await prometheus.until(active(rig.machine.name), is(0));
    await prometheus.until(`vesper_guest_state{guest="${stuck.name}",state="lost"}`, is(1));
    await rig.machine.waitReady(position);
    await prometheus.until(sessions, is(2));
    await prometheus.until(active(rig.machine.name), is(1));
    await prometheus.until(`vesper_guest_probe_points{guest="${rig.machine.name}",probe="signal"}`, is(2));
    await rig.machine.run('actor --name after segv');
    // What was counted before the reboot is still there.
    await prometheus.until(died, is(2));
  } finally {
    process.kill(stuck.pid, 'SIGCONT');
  }
  await prometheus.until(active(stuck.name), is(1));

  const [up] = await prometheus.query('min_over_time(up[1h])');
  expect(up?.value).toBe(1);
  const [scrapes] = await prometheus.query('count_over_time(up[1h])');
  expect(scrapes?.value).toBeGreaterThan(5);
  const [longest] = await prometheus.query('max_over_time(scrape_duration_seconds[1h])');
  expect(longest?.value).toBeLessThan(0.5);
  const [samples] = await prometheus.query('max_over_time(scrape_samples_scraped[1h])');
  expect(samples?.value).toBeGreaterThan(50);
  // No sample was refused: as twice the same, or out of order.
  expect(prometheus.log).not.toMatch(/level=(warn|error)/);
});
