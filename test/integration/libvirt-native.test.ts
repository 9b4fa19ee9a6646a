// SPDX-License-Identifier: Apache-2.0

/** The libvirt bindings against a real libvirtd with real guests. What happens when a daemon fails is in its own file. */

import { createHash, randomBytes } from 'node:crypto';
import { chownSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { loadLibvirtAddon } from '../../host/provider/libvirt/addon.ts';
import type { DomainEvent, EventKind } from '../../host/provider/libvirt/event.ts';
import type { LibvirtError, NativeConnection, NativeDomain } from '../../host/provider/libvirt/native.ts';
import { destroyTransient, LibvirtGuest, type LibvirtGuestOptions } from '../harness/libvirt-guest.ts';
import { Libvirtd } from '../harness/libvirtd.ts';
import { uncaughtExceptions } from '../harness/uncaught.ts';

const { Connection } = loadLibvirtAddon();
const noSuchUuid = '00000000-0000-4000-8000-000000000000';

let daemon: Libvirtd;
let connection: NativeConnection;

beforeAll(async () => {
  daemon = await Libvirtd.start();
  connection = await Connection.open(daemon.uri);
});

afterAll(async () => {
  await connection?.close();
  await daemon?.close();
  if (daemon !== undefined) expect([daemon.processes(), existsSync(daemon.directory)]).toEqual([[], false]);
});

/** A guest that is defined; gone after the test. */
async function define(options: LibvirtGuestOptions = {}): Promise<[LibvirtGuest, NativeDomain]> {
  const guest = await LibvirtGuest.create(daemon, options);
  onTestFinished(() => guest.close());
  const domain = await connection.defineDomain(guest.xml);
  onTestFinished(async () => {
    await domain.destroy().catch((thrown) => expect(thrown.code).toBe('VIR_ERR_OPERATION_INVALID'));
    await domain.undefine({ managedSave: true });
  });
  return [guest, domain];
}

async function boot(options: LibvirtGuestOptions = {}): Promise<[LibvirtGuest, NativeDomain]> {
  const [guest, domain] = await define(options);
  await domain.start();
  await guest.waitReady();
  return [guest, domain];
}

/** What a domain tells from now on, without the domain. */
async function watch<Kind extends EventKind>(
  domain: NativeDomain,
  kinds: readonly Kind[],
  on: NativeConnection = connection,
): Promise<object[]> {
  const events: object[] = [];
  for (const kind of kinds) {
    const subscription = await on.subscribe(
      kind,
      (event) => {
        if ('count' in event) throw new Error(`${event.count} events were lost`);
        const { domain: about, ...rest } = event as DomainEvent;
        expect(about).toMatchObject({ name: domain.name, uuid: domain.uuid });
        events.push(rest);
      },
      { domain: domain.uuid },
    );
    onTestFinished(() => subscription.close());
  }
  return events;
}

const lifecycle = (event: string, detail: string) => ({ kind: 'lifecycle', event, detail });

describe('opening', () => {
  test.each([
    ['qemu+carrier-pigeon:///session', 'VIR_ERR_INVALID_ARG', 'VIR_FROM_REMOTE'],
    ['qemu+unix:///session?socket=/nonexistent', 'VIR_ERR_SYSTEM_ERROR', 'VIR_FROM_RPC'],
    ['test:///nonexistent.xml', 'VIR_ERR_XML_ERROR', 'VIR_FROM_TEST'],
  ])('%s is refused with what libvirt says', async (uri, code, source) => {
    const refused = (await Connection.open(uri).catch((thrown) => thrown)) as LibvirtError;
    expect(refused).toBeInstanceOf(Error);
    expect(refused).toMatchObject({ name: 'LibvirtError', code, source, call: 'virConnectOpenAuth' });
    expect(refused.libvirtCode).toBeGreaterThan(0);
    expect(refused.message.length).toBeGreaterThan(10);
  });

  test('credentials are handed over when libvirt asks', async () => {
    const accounts = daemon.file(
      'accounts.xml',
      "<node><auth><user password='open sesame'>vesper</user></auth></node>",
    );
    const uri = `test://${accounts}`;
    const credentials = { authname: 'vesper', passphrase: 'open sesame' };
    const allowed = await Connection.open(uri, { credentials });
    expect(await allowed.describe()).toMatchObject({ hypervisor: 'TEST', uri });
    await allowed.close();
    const refusal = { code: 'VIR_ERR_AUTH_FAILED' };
    await expect(
      Connection.open(uri, { credentials: { ...credentials, passphrase: 'x' } }),
    ).rejects.toMatchObject(refusal);
    await expect(Connection.open(uri, { credentials: { authname: 'vesper' } })).rejects.toMatchObject(
      refusal,
    );
    await expect(Connection.open(uri)).rejects.toMatchObject(refusal);
  });

  test('read-only, nothing can be changed', async () => {
    const [guest] = await define();
    const reader = await Connection.open('test:///default', { readOnly: true });
    await expect(reader.defineDomain(guest.xml)).rejects.toMatchObject({ code: 'VIR_ERR_OPERATION_DENIED' });
    expect(await reader.domainByName('test')).toMatchObject({ name: 'test' });
    await reader.close();
  });

  test('the connection says what it is connected to', async () => {
    expect(await connection.describe()).toMatchObject({
      uri: daemon.uri,
      hypervisor: 'QEMU',
      libvirtVersion: expect.any(Number),
      hypervisorVersion: expect.any(Number),
    });
    expect(await connection.capabilities()).toMatch(/^<capabilities>/);
  });

  test('closed: every call says so, and so do its domains', async () => {
    const [, domain] = await define();
    const own = await Connection.open(daemon.uri);
    const same = await own.domainByUuid(domain.uuid);
    const closed = { code: 'CLOSED', message: `the connection to ${daemon.uri} is closed (client)` };
    const under = expect(own.listDomains()).rejects.toMatchObject(closed);
    await own.close();
    await own.close();
    expect(await own.closed).toBe('client');
    expect(own.isOpen).toBe(false);
    await under;
    await expect(own.listDomains()).rejects.toMatchObject(closed);
    await expect(own.subscribe('reboot', () => {})).rejects.toMatchObject(closed);
    await expect(same.state()).rejects.toMatchObject(closed);
    expect(same.name).toBe(domain.name);
  });

  test('wrong arguments throw at once', () => {
    const wrong = connection as unknown as Record<string, (...args: unknown[]) => unknown>;
    expect(() => wrong['domainByName']?.(7)).toThrow(TypeError);
    expect(() => wrong['subscribe']?.('lunch', () => {})).toThrow(
      /there are no events "lunch": there are lifecycle, /,
    );
    expect(() => wrong['subscribe']?.('reboot')).toThrow(TypeError);
    expect(() => wrong['listDomains']?.({ timeLimitMs: 0 })).toThrow(RangeError);
    expect(() => wrong['statistics']?.({ groups: ['fuel'] })).toThrow(/"fuel" is none of state, cpu/);
    expect(() => wrong['listDomains']?.call({})).toThrow(TypeError);
    const made = connection.constructor as new () => unknown;
    expect(() => new made()).toThrow(TypeError);
  });
});

describe('domains', () => {
  test('are listed and looked up; state with its reason, XML', async () => {
    const [guest, domain] = await define();
    const named = async (options?: object) => (await connection.listDomains(options)).map(({ name }) => name);
    expect(await named()).toEqual([guest.name]);
    expect(await named({ active: true })).toEqual([]);
    expect(await domain.state()).toEqual({ state: 'shutoff', reason: 'unknown' });
    expect(await domain.id()).toBeNull();
    expect(await domain.isPersistent()).toBe(true);

    await domain.start({ paused: true });
    expect(await named({ active: true })).toEqual([guest.name]);
    expect(await domain.state()).toEqual({ state: 'paused', reason: 'user' });
    const id = await domain.id();
    for (const same of [
      await connection.domainByName(guest.name),
      await connection.domainByUuid(guest.uuid),
      await connection.domainById(id as number),
    ])
      expect(same).toMatchObject({ name: guest.name, uuid: guest.uuid });
    expect(await domain.xml()).toContain(`<domain type='qemu' id='${id}'>`);
    expect(await domain.xml({ inactive: true })).toContain(`<domain type='qemu'>`);

    const missing = {
      code: 'VIR_ERR_NO_DOMAIN',
      libvirtCode: 42,
      source: 'VIR_FROM_QEMU',
      libvirtDomain: 10,
    };
    await expect(connection.domainByUuid(noSuchUuid)).rejects.toMatchObject({
      ...missing,
      call: 'virDomainLookupByUUIDString',
      message: expect.stringContaining(noSuchUuid),
    });
    await expect(connection.domainByName('nobody')).rejects.toMatchObject(missing);
  });

  test('tell their lives: start, reboot, suspension, shutdown, kill -9, destroy', async () => {
    const [guest, domain] = await define();
    const events = await watch(domain, ['lifecycle', 'reboot']);
    await domain.start();
    await expect
      .poll(() => events)
      .toEqual([lifecycle('resumed', 'unpaused'), lifecycle('started', 'booted')]);
    await guest.waitReady();
    expect(await domain.state()).toEqual({ state: 'running', reason: 'booted' });

    events.length = 0;
    let position = guest.console.position;
    await guest.shell.post('reboot -f');
    await guest.waitReady(position);
    await expect.poll(() => events).toContainEqual({ kind: 'reboot' });
    position = guest.console.position;
    events.length = 0;
    await domain.reset();
    await guest.waitReady(position);
    await expect.poll(() => events).toContainEqual({ kind: 'reboot' });

    events.length = 0;
    await domain.suspend();
    expect(await domain.state()).toEqual({ state: 'paused', reason: 'user' });
    await domain.resume();
    expect(await domain.state()).toEqual({ state: 'running', reason: 'unpaused' });
    await expect
      .poll(() => events)
      .toEqual([lifecycle('suspended', 'paused'), lifecycle('resumed', 'unpaused')]);

    events.length = 0;
    await guest.shell.post('poweroff -f');
    await expect
      .poll(() => events)
      .toEqual([lifecycle('shutdown', 'guest'), lifecycle('stopped', 'shutdown')]);
    expect(await domain.state()).toEqual({ state: 'shutoff', reason: 'shutdown' });

    // Events come on their own way, some after the call's answer.
    await domain.start();
    await expect.poll(() => events).toContainEqual(lifecycle('started', 'booted'));
    events.length = 0;
    process.kill(daemon.qemuPid(guest.name), 'SIGKILL');
    await expect.poll(() => events).toEqual([lifecycle('stopped', 'failed')]);

    await domain.start();
    await expect.poll(() => events).toContainEqual(lifecycle('started', 'booted'));
    events.length = 0;
    await domain.destroy();
    await expect.poll(() => events).toContainEqual(lifecycle('stopped', 'destroyed'));
    expect(await domain.state()).toEqual({ state: 'shutoff', reason: 'destroyed' });
    await expect(domain.destroy()).rejects.toMatchObject({ code: 'VIR_ERR_OPERATION_INVALID' });
  });

  test('transient ones: created, told of, destroyed with their connection', async () => {
    const guest = await LibvirtGuest.create(daemon, { name: 'transient' });
    onTestFinished(() => guest.close());
    const owner = await Connection.open(daemon.uri);
    const domain = await owner.createDomain(guest.xml, { autoDestroy: true });
    expect(await domain.isPersistent()).toBe(false);
    const events = await watch(domain, ['lifecycle']);
    await owner.close();
    await expect.poll(() => events).toContainEqual(lifecycle('stopped', 'destroyed'));
    await expect(connection.domainByUuid(guest.uuid)).rejects.toMatchObject({ code: 'VIR_ERR_NO_DOMAIN' });
  });

  test('are saved and restored, by file and managed', async () => {
    const [guest, domain] = await boot();
    const events = await watch(domain, ['lifecycle', 'job-completed']);
    await guest.check('echo kept >/tmp/kept');
    const file = join(daemon.directory, 'saved');
    await domain.save(file);
    await expect.poll(() => events).toContainEqual(lifecycle('stopped', 'saved'));
    expect(await domain.state()).toEqual({ state: 'shutoff', reason: 'saved' });
    await connection.restore(file);
    await expect.poll(() => events).toContainEqual(lifecycle('started', 'restored'));
    expect(await guest.check('cat /tmp/kept')).toBe('kept');

    await domain.managedSave();
    await expect(domain.undefine()).rejects.toMatchObject({ code: 'VIR_ERR_OPERATION_INVALID' });
    await domain.start();
    expect(await guest.check('cat /tmp/kept')).toBe('kept');
    await domain.managedSave();
    await domain.removeManagedSave();
    const position = guest.console.position;
    await domain.start();
    await guest.waitReady(position);
  });

  test('migrate to another daemon, and tell of it', async () => {
    await using other = await Libvirtd.start();
    const there = await Connection.open(other.uri);
    onTestFinished(() => there.close());
    const [guest, domain] = await boot({ name: 'mover' });
    await guest.check('echo kept >/tmp/kept');
    const events = await watch(domain, ['lifecycle', 'migration-iteration', 'job-completed']);
    const arrivals: object[] = [];
    await there.subscribe(
      'lifecycle',
      ({ kind, domain: _, ...rest }: object & { kind: string; domain?: object }) =>
        arrivals.push({ kind, ...rest }),
    );
    await domain.migrate(other.uri, {
      peerToPeer: true,
      uri: 'tcp://127.0.0.1',
      listenAddress: '127.0.0.1',
      bandwidthMibPerSecond: 1000,
    });
    await expect.poll(() => arrivals).toContainEqual(lifecycle('started', 'migrated'));
    await expect.poll(() => events).toContainEqual(lifecycle('stopped', 'migrated'));
    expect(events).toContainEqual({ kind: 'migration-iteration', iteration: 1 });
    expect(events).toContainEqual({
      kind: 'job-completed',
      statistics: expect.objectContaining({ memory_total: expect.any(Number), operation: 5 }),
    });
    expect(await domain.job({ completed: true })).toMatchObject({ type: 'completed' });
    expect(await domain.state()).toEqual({ state: 'shutoff', reason: 'migrated' });
    const arrived = await there.domainByUuid(guest.uuid);
    expect(await arrived.state()).toEqual({ state: 'running', reason: 'migrated' });
    expect(await guest.check('cat /tmp/kept')).toBe('kept');
    await destroyTransient(arrived);
  });
});

describe('devices', () => {
  test.each(['pc', 'q35'] as const)('%s: a channel and a region come and go by alias', async (machine) => {
    const [guest, domain] = await boot({ machine });
    const events = await watch(domain, ['device-added', 'device-removed']);
    // libvirt puts it on a root port only where it is told to.
    const address = machine === 'q35' ? `<address type='pci' bus='6'/>` : '';
    const before = await domain.xml();

    const socket = join(daemon.directory, 'probe.port');
    await domain.attachDevice(
      `<channel type='unix'><source mode='bind' path='${socket}'/><target type='virtio' name='org.vesper.probe.0'/><alias name='ua-vesper-port'/></channel>`,
    );
    const region = `/dev/shm/vesper-test-${process.pid}`;
    onTestFinished(() => rmSync(region, { force: true }));
    writeFileSync(region, new Uint8Array(1 << 20), { mode: 0o600 });
    chownSync(region, daemon.uid, daemon.uid);
    await domain.attachDevice(
      `<shmem name='vesper-test-${process.pid}' role='master'><model type='ivshmem-plain'/><size unit='M'>1</size><alias name='ua-vesper-region'/>${address}</shmem>`,
      { live: true },
    );
    expect(existsSync(socket)).toBe(true);
    await expect
      .poll(() => events)
      .toEqual([
        { kind: 'device-added', alias: 'ua-vesper-port' },
        { kind: 'device-added', alias: 'ua-vesper-region' },
      ]);
    const ports = () => guest.check('cat /sys/class/virtio-ports/*/name 2>/dev/null || true');
    const regions = () => guest.check('grep -l 0x1110 /sys/bus/pci/devices/*/device | wc -l');
    await expect.poll(ports).toBe('org.vesper.probe.0');
    await expect.poll(regions).toBe('1');

    events.length = 0;
    await domain.detachAlias('ua-vesper-port');
    await expect.poll(() => events).toEqual([{ kind: 'device-removed', alias: 'ua-vesper-port' }]);
    await domain.detachAlias('ua-vesper-region');
    await expect.poll(() => events).toContainEqual({ kind: 'device-removed', alias: 'ua-vesper-region' });
    await expect.poll(ports).toBe('');
    await expect.poll(regions).toBe('0');
    expect(await domain.xml()).toBe(before);
    await expect(domain.detachAlias('ua-vesper-port')).rejects.toMatchObject({
      code: 'VIR_ERR_INTERNAL_ERROR',
      call: 'virDomainDetachDeviceAlias',
      message: expect.stringContaining('ua-vesper-port'),
    });
    await expect(domain.attachDevice('<channel/>')).rejects.toMatchObject({ code: 'VIR_ERR_XML_ERROR' });
  });

  test('a channel is read and written through the daemon', async () => {
    // The path libvirt would choose is too long for a socket, in a folder as deep as this one.
    const source = `<source mode='bind' path='${join(daemon.directory, 'probe.port')}'/>`;
    const target = `<target type='virtio' name='org.vesper.probe.0'/>`;
    const channel = `<channel type='unix'>${source}${target}</channel>`;
    const [guest, domain] = await boot({ devices: channel });
    const port = `/dev/${await guest.check('cd /sys/class/virtio-ports; for p in *; do grep -q vesper $p/name && echo $p; done')}`;
    const received: Uint8Array[] = [];
    const ends: (LibvirtError | undefined)[] = [];
    const open = (options = {}) =>
      domain.openChannel(
        'org.vesper.probe.0',
        (bytes) => received.push(bytes),
        (why) => ends.push(why),
        options,
      );
    const stream = await open();
    await expect(open()).rejects.toMatchObject({ code: 'VIR_ERR_OPERATION_FAILED' });

    const sent = randomBytes(1_000_000);
    const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
    const counted = guest.check(`head -c ${sent.length} ${port} | tee /tmp/sent | sha256sum`);
    const write = stream.write(sent);
    await expect(stream.write(sent)).rejects.toMatchObject({ code: 'STREAM_BUSY' });
    await write;
    expect(await counted).toContain(digest(sent));
    await guest.check(`cat /tmp/sent >${port}`);
    await expect.poll(() => Buffer.concat(received).length).toBe(sent.length);
    expect(digest(Buffer.concat(received))).toBe(digest(sent));

    await stream.close();
    await stream.close();
    expect(stream.closed).toBe(true);
    await expect(stream.write(sent)).rejects.toMatchObject({ code: 'CLOSED' });
    expect(ends).toEqual([]);
    // The daemon may need a moment to see that the channel is free.
    const again = await open({ force: true });
    await domain.destroy();
    await expect.poll(() => ends.length).toBe(1);
    expect(again.closed).toBe(true);
    await expect(
      domain.openChannel(
        'other',
        () => {},
        () => {},
      ),
    ).rejects.toMatchObject({
      code: 'VIR_ERR_OPERATION_INVALID',
    });
  });

  test('a console whose reader does not keep up ends with an error, not with memory', async () => {
    const [guest, domain] = await boot({
      devices: `<console type='pty'><target type='virtio'/><alias name='ua-hvc'/></console>`,
    });
    let end: LibvirtError | undefined;
    let bytes = 0;
    const stream = await domain.openConsole(
      'ua-hvc',
      (chunk) => {
        bytes += chunk.length;
        // A reader that is busy for longer than the guest needs for the backlog.
        const until = performance.now() + 50;
        while (performance.now() < until);
      },
      (why) => {
        end = why;
      },
      { backlogBytes: 128 << 10 },
    );
    onTestFinished(() => stream.close());
    await guest.shell.post('cat /dev/zero >/dev/hvc0 &');
    await expect.poll(() => end?.code ?? bytes, { timeout: 60_000 }).toBe('STREAM_OVERRUN');
  });
});

describe('facts and commands', () => {
  test('metadata is set, told, read and removed', async () => {
    const [, domain] = await define();
    await domain.start({ paused: true });
    const events = await watch(domain, ['metadata-change']);
    const element = { type: 'element', uri: 'https://vesper.example/1' } as const;
    await domain.setMetadata('<probes>signal</probes>', {
      ...element,
      key: 'vesper',
      live: true,
      config: true,
    });
    await expect
      .poll(() => events)
      .toContainEqual({ kind: 'metadata-change', type: 'element', uri: element.uri });
    expect(await domain.metadata(element)).toMatch(/<probes>signal<\/probes>/);
    expect(await domain.xml({ inactive: true })).toContain('<vesper:probes');
    await domain.setMetadata('a guest', { type: 'title', live: true });
    await expect.poll(() => events).toContainEqual({ kind: 'metadata-change', type: 'title', uri: null });
    expect(await domain.metadata({ type: 'title' })).toBe('a guest');
    await domain.setMetadata(null, { ...element, live: true, config: true });
    await expect(domain.metadata(element)).rejects.toMatchObject({ code: 'VIR_ERR_NO_DOMAIN_METADATA' });
  });

  test('statistics of memory and domain', async () => {
    const [guest, domain] = await boot();
    const kib = 256 * 1024;
    await domain.setMemoryStatisticsPeriod(1);
    await expect
      .poll(() => domain.memoryStatistics())
      .toMatchObject({ 'actual-balloon': kib, rss: expect.any(Number), available: expect.any(Number) });
    expect((await domain.memoryStatistics()).available).toBeLessThan(kib);
    expect(await domain.statistics({ groups: ['cpu', 'balloon', 'state'] })).toMatchObject({
      'state.state': 1,
      'cpu.time': expect.any(Number),
      'balloon.current': kib,
    });
    expect(await domain.statistics({ groups: ['balloon'] })).not.toHaveProperty('cpu.time');
    const [first, ...others] = await connection.statistics({ active: true, noWait: true });
    expect(others).toEqual([]);
    expect(first?.domain.uuid).toBe(guest.uuid);
    expect(first?.statistics).toMatchObject({ 'vcpu.current': 1 });
  });

  test('a command of the monitor', async () => {
    const [, domain] = await define();
    await domain.start({ paused: true });
    const answer = JSON.parse(await domain.monitorCommand('{"execute":"query-status"}'));
    expect(answer.return).toMatchObject({ status: 'prelaunch', running: false });
    expect(await domain.monitorCommand('info version', { hmp: true })).toMatch(/^\d+\.\d+/);
    const wrong = JSON.parse(await domain.monitorCommand('{"execute":"make-coffee"}'));
    expect(wrong.error.class).toBe('CommandNotFound');
  });

  test('an NMI reaches the guest', async () => {
    const [guest, domain] = await boot();
    const position = guest.console.position;
    await domain.injectNmi();
    await guest.console.waitFor(/NMI|Uhhuh/, 20_000, position);
  });

  test('a subscription that is closed is silent; one that throws stops nobody', async () => {
    const [, domain] = await define();
    const heard: string[] = [];
    const silent = await connection.subscribe('lifecycle', () => heard.push('closed one'));
    await silent.close();
    await silent.close();
    const uncaught = uncaughtExceptions();
    const throwing = await connection.subscribe('lifecycle', () => {
      throw new Error('a listener failed');
    });
    onTestFinished(() => throwing.close());
    const events = await watch(domain, ['lifecycle']);
    await domain.start({ paused: true });
    await expect.poll(() => events).toContainEqual(lifecycle('started', 'booted'));
    expect(uncaught).toContain('a listener failed');
    expect(heard).toEqual([]);
  });
});
