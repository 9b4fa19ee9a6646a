// SPDX-License-Identifier: Apache-2.0

/**
 * What the service costs while nothing happens: `vesper serve` as a process of its own with one guest and its two probes armed,
 * and then with three. Wake-ups are the voluntary context switches of all its threads: one a second is the beat at which it looks at
 * every guest's heartbeat.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient } from '../../host/api/client.ts';
import { Machine } from '../../host/demo/machine.ts';
import { apiSocketPath } from '../../host/service/config.ts';
import { atMost, median, quantile, report } from '../harness/figure.ts';
import { repository } from '../harness/rig.ts';

const windowMs = 20_000;
const windows = 3;
const guestCount = 3;
const patienceMs = 60_000;
/** The beat; what is left is for the question once a minute, for V8 and for what the edges of a window cut. */
const mostWakeupsPerSecond = 1.1;
/** By then the rate of the guests' clocks is known: until then they are asked every second. */
const settledMs = 75_000;

/** A field of /proc/PID/status: a number of kB or of switches. */
function field(path: string, name: string): number {
  const found = new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync(path, 'utf8'))?.[1];
  if (found === undefined) throw new Error(`${path} has no ${name}`);
  return Number(found);
}

/** Voluntary switches so far, by the thread's number and name. */
function switches(pid: number): ReadonlyMap<string, number> {
  const threads = `/proc/${pid}/task`;
  return new Map(
    readdirSync(threads).map((tid) => [
      `${tid} ${readFileSync(`${threads}/${tid}/comm`, 'utf8').trim()}`,
      field(`${threads}/${tid}/status`, 'voluntary_ctxt_switches'),
    ]),
  );
}

interface Idleness {
  readonly wakeupsPerSecond: number;
  readonly cpuPercent: number;
  readonly rssMib: number;
  /** Without the pages of regions, which are shared with QEMU. */
  readonly ownMib: number;
  /** The threads that woke up, with wake-ups a second, for who wants to know why. */
  readonly threads: string;
}

async function watch(pid: number): Promise<Idleness> {
  const rates: number[] = [];
  const cpu: number[] = [];
  const rss: number[] = [];
  const own: number[] = [];
  let threads = '';
  for (let n = 0; n < windows; n++) {
    const before = switches(pid);
    const cpuBefore = cpuSeconds(pid);
    const startedMs = performance.now();
    await sleep(windowMs);
    const seconds = (performance.now() - startedMs) / 1e3;
    const each = [...switches(pid)].map(
      ([thread, count]) => [thread, (count - (before.get(thread) ?? 0)) / seconds] as const,
    );
    rates.push(each.reduce((sum, [, rate]) => sum + rate, 0));
    cpu.push(((cpuSeconds(pid) - cpuBefore) / seconds) * 100);
    threads = each
      .filter(([, rate]) => rate > 0)
      .map(([thread, rate]) => `${thread} ${rate.toFixed(1)}`)
      .join(', ');
    const status = `/proc/${pid}/status`;
    rss.push(field(status, 'VmRSS') / 1024);
    own.push((field(status, 'VmRSS') - field(status, 'RssShmem')) / 1024);
  }
  return {
    wakeupsPerSecond: median(rates),
    cpuPercent: median(cpu),
    rssMib: median(rss),
    ownMib: quantile(own, 0),
    threads,
  };
}

/** User and system time of a process so far. */
function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** `vesper serve` as users run it, over some guests with both probes armed; ends the service afterwards, the guests keep them. */
async function serve(directory: string, machines: readonly Machine[]): Promise<Idleness> {
  const guests = machines.flatMap(({ name, qmpPath }) => ['--qemu', `${name}=${qmpPath}`]);
  const service = spawn(join(repository, 'dist/vesper'), ['serve', ...guests], {
    env: { ...process.env, VESPER_RUN_DIR: directory, VESPER_STATE_DIR: join(directory, 'state') },
    stdio: ['ignore', 'inherit', 'ignore'],
  });
  const gone = once(service, 'exit');
  try {
    const api = new ApiClient(apiSocketPath(directory));
    const deadline = performance.now() + patienceMs;
    const active = async () =>
      (await api.guests().catch(() => [])).filter(({ state }) => state === 'active').length;
    while ((await active()) < machines.length) {
      if (performance.now() > deadline || service.exitCode !== null)
        throw new Error('the guests did not become active');
      await sleep(50);
    }
    for (const { name } of machines) {
      const results = await api.attach(name, {
        probes: ['signal', 'oom'],
        parameters: [],
        self_test: false,
        force: false,
      });
      const refused = results.find(({ ok }) => !ok);
      if (refused !== undefined) throw new Error(refused.message);
    }
    await sleep(settledMs);
    return await watch(service.pid ?? -1);
  } finally {
    service.kill('SIGTERM');
    await gone;
  }
}

// Of both services: the sockets of hot-plugged ports are in it.
const directory = mkdtempSync(join(tmpdir(), 'vesper-bench-idle-'));
const machines: Machine[] = [];
try {
  machines.push(await Machine.boot({ kernel: '6.1', memoryMib: 128 }));
  const one = await serve(directory, machines);
  while (machines.length < guestCount) machines.push(await Machine.boot({ kernel: '6.1', memoryMib: 128 }));
  const all = await serve(directory, machines);
  const more = guestCount - 1;
  process.stderr.write(`threads with one guest: ${one.threads}\nwith ${guestCount}: ${all.threads}\n`);
  report('idle_wakeups_one_guest', one.wakeupsPerSecond, '/s', atMost(mostWakeupsPerSecond));
  report('idle_wakeups_three_guests', all.wakeupsPerSecond, '/s', atMost(mostWakeupsPerSecond));
  report('idle_cpu_one_guest', one.cpuPercent, '%');
  report('idle_rss_one_guest', one.rssMib, 'MiB', atMost(100));
  report('idle_rss_three_guests', all.rssMib, 'MiB', atMost(100));
  report('idle_rss_each_further_guest', (all.ownMib - one.ownMib) / more, 'MiB', atMost(2));
} finally {
  for (const machine of machines) await machine.close();
  rmSync(directory, { recursive: true, force: true });
}
