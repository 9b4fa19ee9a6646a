// SPDX-License-Identifier: Apache-2.0

/** `vesper serve` with a configuration, under a service manager, with a real guest. The tests follow one another. */

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { GuestView } from '../../host/api/view.ts';
import { Machine } from '../../host/demo/machine.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { NotifySocket } from '../harness/notify-socket.ts';
import { leftovers, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

describe('a service with a configuration', () => {
  let directory: string;
  let machine: Machine;
  let manager: NotifySocket;
  let service: ServiceProcess;
  const file = () => join(directory, 'vesper.yaml');

  /** Write the configuration; the probes begin at line 8. */
  function configure(...probes: readonly string[]): void {
    const head = [
      'providers:',
      '  qemu:',
      `    monitors: { ${machine.name}: ${machine.qmpPath} }`,
      'api:',
      '  mode: 0640',
      `  group: "${process.getgid?.()}"`,
      'probes:',
    ];
    writeFileSync(file(), [...head, ...probes, ''].join('\n'));
  }

  /** Has the service read the configuration anew, and waits until it says that it has; returns the last it said. */
  async function reload(): Promise<string> {
    process.kill(service.pid, 'SIGHUP');
    const said = await manager.until(/^READY=1/);
    expect(said.at(-2)).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    return said.at(-1) ?? '';
  }

  const probeOf = (guest: GuestView, name: string) => guest.probes.find((probe) => probe.name === name);
  const audit = () =>
    readFileSync(join(service.directory, 'state', 'audit.ndjson'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));
    machine = await Machine.boot();
    manager = await NotifySocket.listen(join(directory, 'notify'));
    service = new ServiceProcess(machine, undefined, {
      config: file(),
      environment: { NOTIFY_SOCKET: join(directory, 'notify'), WATCHDOG_USEC: '2000000' },
    });
  });
  afterAll(async () => {
    await service?.close();
    await manager?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  test('attaches what it asks for, without anybody asking', async () => {
    configure(
      '  - guest: "vesper-*"',
      '    attach:',
      '      signal: { signals: SIGSEGV }',
      '  - guest: other',
      '    attach: { oom: }',
    );
    await service.start();
    expect(await manager.next()).toBe(`READY=1\nSTATUS=serving; ${file()}`);
    const guest = await service.guestUntil((one) => probeOf(one, 'signal')?.loaded === true);
    expect(guest.probes).toMatchObject([
      { name: 'signal', wanted_by: `${file()}:10`, parameters: { signals: 'SIGSEGV' }, reason: '' },
    ]);
    expect(audit()).toMatchObject([
      { action: 'load', by: 'reconcile', args: 'signals=SIGSEGV', result: 'loaded' },
    ]);
    expect(await manager.next()).toBe('WATCHDOG=1');
  });

  test('gives its socket mode and group', () => {
    const { mode, gid } = statSync(join(service.directory, 'vesper.sock'));
    expect({ mode: mode & 0o777, gid }).toEqual({ mode: 0o640, gid: process.getgid?.() });
  });

  test('writes down which process attached and detached, not what it says of itself', async () => {
    await service.api.attach(machine.name, {
      probes: ['oom'],
      parameters: [],
      self_test: false,
      force: false,
    });
    const by = `${userInfo().username} (uid ${process.getuid?.()}, pid ${process.pid})`;
    expect(audit().at(-1)).toMatchObject({ action: 'load', probe: 'oom', by });
    const other = await service.vesper('detach', machine.name, 'oom');
    expect(other.status).toBe(0);
    expect(audit().at(-1)).toMatchObject({
      action: 'unload',
      probe: 'oom',
      by: expect.stringMatching(/ \(uid \d+, pid \d+\)$/),
    });
    expect(audit().at(-1)?.['by']).not.toBe(by);
    await service.api.attach(machine.name, {
      probes: ['oom'],
      parameters: [],
      self_test: false,
      force: false,
    });
  });

  test('refuses a broken one, says so, and goes on with the one before', async () => {
    configure('  - guest: "vesper-*"', '    attatch: { signal: }');
    expect(await reload()).toBe(`READY=1\nSTATUS=serving; ${file()} is wrong and was refused`);
    const sentence = `${file()}:9:5: probes.0.attatch: unknown key: did you mean attach? Here may stand guest, attach`;
    await expect.poll(() => service.log).toContain(sentence);
    const shown = await service.vesper('guests');
    expect(shown.stderr).toContain(sentence);
    expect(shown.stdout).toMatch(/ active .* oom signal /);
    const checked = await service.vesper('serve', '--check');
    expect(checked.status).toBe(2);
    expect(checked.stderr.replaceAll(/\s+/g, ' ')).toContain(sentence);
  });

  test('takes other parameters up, and what is no longer asked for away; what was attached stays', async () => {
    configure('  - guest: "vesper-*"', '    attach: { signal: { signals: SIGKILL } }');
    expect(await service.vesper('serve', '--check')).toMatchObject({ status: 0 });
    expect(await reload()).toBe(`READY=1\nSTATUS=serving; ${file()}`);
    expect((await service.vesper('guests')).stderr).toBe('');
    await expect
      .poll(() => audit().slice(-2))
      .toMatchObject([
        { action: 'unload', probe: 'signal', args: 'signals=SIGSEGV', by: 'reconcile' },
        { action: 'load', probe: 'signal', args: 'signals=SIGKILL', result: 'loaded' },
      ]);

    configure('  []');
    await reload();
    const guest = await service.guestUntil((one) => probeOf(one, 'signal') === undefined);
    expect(guest.probes).toMatchObject([{ name: 'oom', loaded: true, wanted_by: 'attach' }]);
    expect(await machine.check('cut -d" " -f1 /proc/modules')).not.toMatch(/^signal$/m);
  });

  test('leaves detached what was detached, after a restart, too, until it is attached again', async () => {
    configure(`  - guest: ${machine.uuid}`, '    attach: { signal: { signals: SIGSEGV } }');
    await reload();
    await service.guestUntil((one) => probeOf(one, 'signal')?.loaded === true);
    const detached = await service.vesper('detach', machine.name, 'signal');
    expect(detached).toMatchObject({ status: 0 });
    expect(detached.stdout).toContain(
      `It stays detached, although ${file()}:9 asks for it, until it is attached again (vesper attach ${machine.name} signal) or nothing asks for it any more`,
    );
    await reload();
    expect(await service.kill('SIGTERM')).toBe(0);
    expect((await manager.until(/^STOPPING=1/)).at(-1)).toMatch(/guests keep their probes/);
    await service.start();
    await manager.until(/^READY=1/);
    const guest = await service.guestUntil(({ state }) => state === 'active');
    expect(guest.probes).toMatchObject([{ name: 'oom', loaded: true }]);

    const attached = await service.vesper('attach', machine.name, 'signal');
    expect(attached.stdout).toMatch(new RegExp(`✓ signal is armed: .*, as ${file()}:9 asks for`));
    expect(audit().at(-1)).toMatchObject({ action: 'load', args: 'signals=SIGSEGV' });
    expect(probeOf(await service.api.guest(machine.name), 'signal')).toMatchObject({
      wanted_by: `${file()}:9`,
    });
  });

  test('names a probe that does not load, how often it was tried, and when it is tried again', async () => {
    configure('  - guest: "*"', '    attach: { signal: { signals: SIGSEGV }, nosuch: }');
    await reload();
    const advice = await service.vesper('serve', '--check');
    expect(advice).toMatchObject({ status: 0, stdout: expect.stringMatching(/is right/) });
    expect(advice.stderr).toMatch(/vesper\.yaml:9: the catalogue \(.*\) has no probe nosuch\n$/);
    const { probes, state, reason } = await service.guestUntil(
      (one) => (probeOf(one, 'nosuch')?.attempts ?? 0) > 1,
    );
    expect(probes).toContainEqual(
      expect.objectContaining({
        name: 'nosuch',
        loaded: false,
        reason: expect.stringMatching(/nosuch.*catalogue/s),
      }),
    );
    expect(state).toBe('degraded');
    expect(reason).toMatch(/nosuch.* \(tried \d+ times, again at \d\d:\d\d:\d\d UTC\)$/s);
    configure('  - guest: "*"', '    attach: { signal: { signals: SIGSEGV } }');
    await reload();
    await service.guestUntil((one) => one.state === 'active' && probeOf(one, 'nosuch') === undefined);
  });

  test('advises on names and parameters that the catalogue does not know', async () => {
    configure('  - guest: "*"', '    attach: { sgnal: , oom: { colour: red } }');
    const { status, stderr } = await service.vesper('serve', '--check');
    expect(status).toBe(0);
    expect(stderr).toMatch(/vesper\.yaml:9: the catalogue .* has no probe sgnal: did you mean signal\?\n/);
    expect(stderr).toMatch(/vesper\.yaml:9: Probe oom has no parameter colour; /);
  });

  test('says what it takes up only when it is started again', async () => {
    configure('  - guest: "*"', '    attach: { signal: { signals: SIGSEGV } }', 'region: { size: 4 MiB }');
    await reload();
    expect((await service.vesper('guests')).stderr).toMatch(
      /region changed, which the service takes up when it is started again/,
    );
  });

  test('ends in bounded time, with status 0, although its guest and its monitor are stuck', async () => {
    expect(await service.kill('SIGTERM')).toBe(0);
    process.kill(machine.pid, 'SIGSTOP');
    try {
      await service.start();
      const startedAt = performance.now();
      expect(await service.kill('SIGTERM')).toBe(0);
      expect(performance.now() - startedAt).toBeLessThan(15_000);

      process.kill(machine.pid, 'SIGCONT');
      await service.start();
      await service.guestUntil(({ state }) => state === 'active');
      await service.api.detach(machine.name, ['oom']);
      process.kill(machine.pid, 'SIGSTOP');
      const stuck = service.api.attach(machine.name, {
        probes: ['oom'],
        parameters: [],
        self_test: false,
        force: false,
      });
      stuck.catch(() => undefined);
      // Then it is wanted, and being pushed.
      await expect
        .poll(() => readFileSync(join(service.directory, 'state/wanted.json'), 'utf8'))
        .toMatch(/"oom"/);
      const stoppedAt = performance.now();
      expect(await service.kill('SIGTERM')).toBe(0);
      expect(performance.now() - stoppedAt).toBeLessThan(15_000);
    } finally {
      process.kill(machine.pid, 'SIGCONT');
    }
    await service.start();
    await service.guestUntil((one) => one.state === 'active' && probeOf(one, 'oom')?.loaded === true);
    expectNoComplaints(machine.console());
  });
});
