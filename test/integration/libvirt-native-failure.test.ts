// SPDX-License-Identifier: Apache-2.0

/** The libvirt bindings when a daemon hangs or dies, and what they leave behind. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { text } from 'node:stream/consumers';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { loadLibvirtAddon } from '../../host/provider/libvirt/addon.ts';
import type { LibvirtError, OpenOptions } from '../../host/provider/libvirt/native.ts';
import { destroyTransient, LibvirtGuest } from '../harness/libvirt-guest.ts';
import { Libvirtd } from '../harness/libvirtd.ts';
import { repository } from '../harness/rig.ts';
import { uncaughtExceptions } from '../harness/uncaught.ts';

const { Connection } = loadLibvirtAddon();

let daemon: Libvirtd;
beforeEach(async () => {
  daemon = await Libvirtd.start();
});
afterEach(async () => {
  await daemon.close();
  expect([daemon.processes(), existsSync(daemon.directory)]).toEqual([[], false]);
});

async function open(uri: string, options?: OpenOptions) {
  const connection = await Connection.open(uri, options);
  onTestFinished(() => connection.close({ timeLimitMs: 5_000 }).catch(() => undefined));
  return connection;
}

/** How long a promise takes to be rejected, and why. */
async function rejection(
  promise: Promise<unknown>,
): Promise<{ readonly ms: number; readonly why: LibvirtError }> {
  const begin = performance.now();
  const why = await promise.then(
    () => undefined,
    (thrown) => thrown as LibvirtError,
  );
  if (why === undefined) throw new Error('the call succeeded');
  return { ms: performance.now() - begin, why };
}

const threads = () => readdirSync('/proc/self/task').length;
const descriptors = () => readdirSync('/proc/self/fd').length;

describe('a daemon that hangs', () => {
  // How long this process has to wait for a processor is not ours to say; a call that blocks would do so every time.
  test('delays its own calls to their limits, and nothing else', { retry: 3 }, async () => {
    await using healthy = await Libvirtd.start();
    const hung = await open(daemon.uri, { keepAlive: false });
    const other = await open(healthy.uri);
    let toldWhileHung = 0;
    let ended = false;
    await other.subscribe('lifecycle', () => {
      if (!ended) toldWhileHung += 1;
    });
    await daemon.signal('SIGSTOP');
    onTestFinished(() => daemon.signal('SIGCONT').catch(() => undefined));

    const stall = monitorEventLoopDelay({ resolution: 5 });
    stall.enable();
    const limited = Array.from({ length: 10 }, () => rejection(hung.listDomains({ timeLimitMs: 1_000 })));
    const opening = rejection(Connection.open(daemon.uri, { timeLimitMs: 700 }));
    let answered = 0;
    const endings = Promise.all([...limited, opening]).finally(() => {
      ended = true;
    });
    const xml = `<domain type='qemu'><name>spare</name><memory>4096</memory><os><type>hvm</type></os></domain>`;
    const spare = await other.defineDomain(xml, { timeLimitMs: 900 });
    while (!ended) {
      await other.listDomains({ timeLimitMs: 900 });
      answered += 1;
    }
    const rejections = await endings;
    stall.disable();

    expect(answered).toBeGreaterThan(20);
    expect(toldWhileHung).toBe(1);
    await spare.undefine();
    expect(rejections.map(({ why }) => why.code)).toEqual(Array.from({ length: 11 }, () => 'TIMEOUT'));
    const messages = rejections.map(({ why }) => why.message);
    expect(messages.filter((text) => text.startsWith('not begun within 1000 ms'))).toHaveLength(6);
    expect(messages.filter((text) => text.startsWith('no answer from libvirt within 1000 ms'))).toHaveLength(
      4,
    );
    for (const { ms } of rejections) expect(ms).toSatisfy((waited: number) => waited > 690 && waited < 1_500);
    expect(hung.abandonedCalls).toBe(4);
    expect(other.abandonedCalls).toBe(0);
    console.log(
      `event loop stalled for ${Math.round(stall.max / 1e4) / 100} ms at most, ${answered} calls answered`,
    );
    expect(stall.max / 1e6).toBeLessThan(50);

    await daemon.signal('SIGCONT');
    await expect.poll(() => hung.abandonedCalls).toBe(0);
    expect(await hung.listDomains()).toEqual([]);
  });

  test('is given up by its keep-alive: the calls end, the threads too', async () => {
    const before = threads();
    const connection = await open(daemon.uri, { keepAlive: { intervalSeconds: 1, count: 2 } });
    await daemon.signal('SIGSTOP');
    const { why } = await rejection(connection.listDomains({ timeLimitMs: 60_000 }));
    expect(why).toMatchObject({
      libvirtCode: expect.any(Number),
      message: expect.stringMatching(/keepalive|closed/),
    });
    expect(await connection.closed).toBe('keepalive');
    expect(connection.isOpen).toBe(false);
    await expect(connection.listDomains()).rejects.toMatchObject({
      code: 'CLOSED',
      message: expect.stringContaining('(keepalive)'),
    });
    // Those of the process stay: libvirt's event loop and the one of the time limits.
    await expect.poll(threads).toBeLessThanOrEqual(before + 2);
  });

  test('can be left: close() waits no longer than it is told', async () => {
    const connection = await open(daemon.uri, { keepAlive: false });
    await connection.subscribe('lifecycle', () => {});
    await daemon.signal('SIGSTOP');
    const { why, ms } = await rejection(connection.close({ timeLimitMs: 300 }));
    expect(why.code).toBe('TIMEOUT');
    expect(ms).toBeLessThan(1_500);
    expect(connection.isOpen).toBe(false);
    expect(await connection.closed).toBe('client');
  });
});

test('a daemon that is killed: the connection ends, its guests do not; the next connection finds them', async () => {
  const guest = await LibvirtGuest.create(daemon, {
    devices: `<channel type='unix'><source mode='bind' path='${join(daemon.directory, 'port')}'/><target type='virtio' name='org.vesper.probe.0'/></channel>`,
  });
  onTestFinished(() => guest.close());
  const connection = await open(daemon.uri);
  const domain = await connection.createDomain(guest.xml);
  await guest.waitReady();
  const ends: unknown[] = [];
  const uncaught = uncaughtExceptions();
  await domain.openChannel(
    'org.vesper.probe.0',
    () => {},
    (why) => {
      ends.push(why);
      throw new Error('a listener failed');
    },
  );

  await daemon.signal('SIGKILL');
  expect(await connection.closed).toMatch(/^(eof|error)$/);
  expect(connection.isOpen).toBe(false);
  await expect(domain.state()).rejects.toMatchObject({ code: 'CLOSED' });
  await expect.poll(() => ends.length).toBe(1);
  expect(uncaught).toEqual(['a listener failed']);
  await connection.close();

  await daemon.launch();
  const again = await open(daemon.uri);
  const events: unknown[] = [];
  await again.subscribe('lifecycle', (event) => events.push(event));
  const found = await again.domainByUuid(guest.uuid);
  await expect.poll(async () => (await found.state()).state).toBe('running');
  expect(await guest.check('echo alive')).toBe('alive');
  await destroyTransient(found);
  await expect
    .poll(() => events)
    .toContainEqual(expect.objectContaining({ event: 'stopped', detail: 'destroyed' }));
});

test('200 connections leave neither threads nor descriptors', async () => {
  const cycle = async () => {
    const connection = await Connection.open(daemon.uri);
    await connection.subscribe('lifecycle', () => {});
    await connection.listDomains();
    await connection.close();
  };
  await cycle();
  const before = [threads(), descriptors()] as const;
  for (let n = 0; n < 200; n += 1) await cycle();
  await expect.poll(threads).toBeLessThanOrEqual(before[0]);
  await expect.poll(descriptors).toBeLessThanOrEqual(before[1]);
});

test('events that come while JavaScript is busy are delivered, or counted', async () => {
  const connection = await open('test:///default');
  const domain = await connection.domainByName('test');
  const seen: string[] = [];
  let lost = 0;
  await connection.subscribe('lifecycle', (event) => {
    if (event.kind === 'lost') lost += event.count;
    else seen.push(event.event);
  });
  const times = 30_000;
  const done = new Int32Array(new SharedArrayBuffer(4));
  const client = new URL('../harness/libvirt-client.ts', import.meta.url);
  const worker = new Worker(client, { workerData: ['flood-in-worker', 'test:///default', times, done] });
  const ended = once(worker, 'exit');
  // Not a turn of the event loop from here to the last change.
  expect(Atomics.wait(done, 0, 0, 120_000)).not.toBe('timed-out');
  await ended;
  await domain.suspend();
  await expect.poll(() => seen.length + lost).toBe(times + 1);
  // Some of the last may have come when there was room again.
  expect(seen.length).toBeGreaterThan(16_384);
  expect(lost).toBeGreaterThan(0);
});

test.runIf(process.getuid?.() === 0)('a host without libvirt is told what to install', async () => {
  const library = '/usr/lib/x86_64-linux-gnu/libvirt.so.0';
  const load = `import('${join(repository, 'host/provider/libvirt/addon.ts')}').then(({ loadLibvirtAddon }) => loadLibvirtAddon()).catch(({ code, message }) => console.log(code, message))`;
  // Hidden from this one process only.
  const script = `mount --bind /dev/null "$(readlink -f ${library})" && exec "$@"`;
  const client = spawn('unshare', ['--mount', 'sh', '-c', script, 'sh', process.execPath, '-e', load]);
  const output = await text(client.stdout);
  expect(output).toMatch(
    /^HOST the libvirt bindings cannot be loaded from .*libvirt\.node .*libvirt\.so\.0.*: libvirt is not installed on this host: run "apt-get install libvirt0"$/m,
  );
});

describe('a process ends', () => {
  test.each(['end', 'exit', 'exit-calling', 'dropped', 'workers', 'only-workers'])('%s', async (way) => {
    await ends(way);
  });

  test('while a daemon hangs', async () => {
    await daemon.signal('SIGSTOP');
    await ends('exit-hanging');
  });
});

/** Runs the client, several times for what is a matter of luck. */
async function ends(way: string): Promise<void> {
  for (let n = 0; n < 5; n += 1) {
    const client = spawn(
      process.execPath,
      ['--expose-gc', join(repository, 'test/harness/libvirt-client.ts'), way, daemon.uri],
      { timeout: 30_000, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] },
    );
    let output = '';
    for (const stream of [client.stdout, client.stderr]) stream.on('data', (chunk) => (output += chunk));
    const [code, signal] = await once(client, 'close');
    expect([code, signal, output.replace(/^done$/, '')]).toEqual([0, null, '']);
  }
}
