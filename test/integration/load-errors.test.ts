// SPDX-License-Identifier: Apache-2.0

/** Why a load failed comes back as the guest's kernel said it, with a sentence a person can act on; and nothing stays behind. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Machine } from '../../host/demo/machine.ts';
import type { VesperEvent } from '../../host/guest/event.ts';
import { ElfFile } from '../../host/probe/elf.ts';
import { errnoName } from '../../host/probe/errno.ts';
import { readImage } from '../../host/probe/image.ts';
import { explainLoadError } from '../../host/probe/load-error.ts';
import { kernelOf } from '../../host/service/probe-actions.ts';
import type { ProbeResult } from '../../host/service/results.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, probePath, Rig, releaseOf } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

describe.each([
  { kernel: '6.1', other: '6.12' },
  { kernel: '6.12', other: '6.1' },
] as const)('kernel $kernel', ({ kernel, other }) => {
  let rig: Rig;
  let atFirst: readonly string[];
  beforeAll(async () => {
    rig = await Rig.start({ kernel });
    atFirst = await loadedModules(rig.machine);
  });
  afterAll(() => rig?.close());

  const signal = probePath(kernel, 'signal');
  const fixture = (name: string): string => fixturePath(kernel, name);

  /** The one result of an attach that the guest's kernel is to decide, whatever the host's check says. */
  async function forced(image: string, parameters: readonly string[] = []): Promise<ProbeResult> {
    const [result] = await rig.tryAttach([image], parameters, true);
    if (result === undefined) throw new Error('an attach without a result');
    return result;
  }

  /** A file with the bytes of `path`, changed. */
  function changed(path: string, change: (bytes: Buffer) => Buffer): string {
    const file = join(rig.directory, 'changed.ko');
    writeFileSync(file, change(readFileSync(path)));
    return file;
  }

  /** What was tried, as the service wrote it down. */
  function audit(): readonly { readonly probe: string; readonly result: string }[] {
    const file = join(rig.directory, 'state', 'audit.ndjson');
    if (!existsSync(file)) return [];
    return readFileSync(file, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  describe('the file', () => {
    test.each([1, 2, 3])('cut off after %i/4: the host does not take it', async (quarters) => {
      const before = audit().length;
      const cut = changed(signal, (bytes) => bytes.subarray(0, (bytes.length * quarters) / 4));
      await expect(rig.tryAttach([cut], [], true)).rejects.toMatchObject({
        code: 'BAD_IMAGE',
        message: expect.stringMatching(/changed\.ko.*(truncated|cut off|ends)/),
      });
      expect(audit().length).toBe(before);
    });

    test('cut off behind the host: ENOEXEC', async () => {
      const whole = await readImage(signal);
      const bytes = whole.bytes.subarray(0, whole.bytes.length >> 1);
      // Its sum is that of these bytes: they arrive as they were sent.
      const { session } = rig.guest;
      if (session === undefined) throw new Error('no session');
      const image = { ...whole, bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
      const result = await session.push(image, '');
      expect(errnoName(result.error)).toBe('ENOEXEC');
      const guest = await kernelOf(session, rig.service.images);
      const sentence = explainLoadError(result.error, result.stage, image, guest);
      expect(sentence).toMatch(/^Probe signal was not loaded into guest \S+: .*damaged or cut off/);
      expect(session.probes.all()).toEqual([]);
    });

    test('for another architecture: the host says so, the kernel says ENOEXEC', async () => {
      const machineAarch64 = 183;
      const foreign = changed(signal, (bytes) => {
        bytes.writeUInt16LE(machineAarch64, 18);
        return bytes;
      });
      const [refused] = await rig.tryAttach([foreign]);
      const sentence = expect.stringMatching(/built for aarch64, guest \S+ is x86_64; (re)?build/);
      expect(refused).toMatchObject({ ok: false, errno: '', message: sentence });
      expect(await forced(foreign)).toMatchObject({ ok: false, errno: 'ENOEXEC', message: sentence });
    });

    test("of another kernel's build: ENOEXEC, and both releases are named", async () => {
      const result = await forced(probePath(other, 'signal'));
      expect(result).toMatchObject({ ok: false, errno: 'ENOEXEC', armed_points: 0 });
      expect(result.message).toContain(releaseOf(kernel));
      expect(result.message).toContain(releaseOf(other));
      expect(result.message).toMatch(/build it/);
    });
  });

  describe('its symbols', () => {
    test('one that the kernel does not export: ENOENT, and it is named', async () => {
      expect(await forced(fixture('missingsymbol'))).toMatchObject({
        ok: false,
        errno: 'ENOENT',
        message: expect.stringContaining('vesper_symbol_nobody_exports'),
      });
    });

    test.each([
      { whose: 'the frontend', prefix: /^vesper_/ },
      // That of module_layout is looked at first, and with another result.
      { whose: 'the kernel', prefix: /^(?!vesper_|module_layout)/ },
    ])('the version of a symbol of $whose differs: EINVAL', async ({ prefix }) => {
      const image = changed(signal, (bytes) => withOtherVersion(bytes, prefix));
      expect(await forced(image)).toMatchObject({
        ok: false,
        errno: 'EINVAL',
        message: expect.stringMatching(/symbol versions|a build of its own/),
      });
    });

    /** Entries of __versions are 64 bytes: a CRC of 8, and the name. */
    function withOtherVersion(bytes: Buffer, whose: RegExp): Buffer {
      const section = new ElfFile(bytes, 'signal.ko').allocatedSection('__versions');
      if (section === undefined) throw new Error('signal.ko has no symbol versions');
      const entries = Array.from({ length: section.size / 64 }, (_, index) => section.offset + index * 64);
      const at = entries.find((entry) => whose.test(bytes.toString('latin1', entry + 8, entry + 64)));
      if (at === undefined) throw new Error('signal.ko needs no such symbol');
      bytes.writeUInt32LE((bytes.readUInt32LE(at) ^ 1) >>> 0, at);
      return bytes;
    }
  });

  describe('its parameters', () => {
    test('a value that the probe does not take: EINVAL, and the value is repeated', async () => {
      expect(await forced(signal, ['signals=NOSUCH'])).toMatchObject({
        ok: false,
        errno: 'EINVAL',
        message: expect.stringMatching(/signals=NOSUCH.*vesper probes signal/),
      });
    });

    test.each([
      ['a parameter it does not have', 'sginals=SIGSEGV', /sginals.*signals/s],
      ['a value of the wrong type', 'greeting=x times=many', /times.*many/s],
    ])('%s: refused before anything is pushed', async (_, assignments, sentence) => {
      const before = audit().length;
      const image = assignments.includes('times') ? fixture('hello') : signal;
      await expect(rig.tryAttach([image], assignments.split(' '), true)).rejects.toMatchObject({
        code: 'USAGE',
        message: expect.stringMatching(sentence),
      });
      expect(audit().length).toBe(before);
    });
  });

  describe('what is there already', () => {
    test('the same probe with other parameters: EEXIST, and the first one stays as it is', async () => {
      await rig.attach([signal], ['signals=SIGSEGV']);
      expect(await forced(signal, ['signals=SIGKILL'])).toMatchObject({
        ok: false,
        errno: 'EEXIST',
        message: expect.stringMatching(/attached .* already, with other parameters: detach it first/),
      });
      expect(rig.view.probes).toMatchObject([
        { name: 'signal', loaded: true, parameters: { signals: 'SIGSEGV' } },
      ]);
      expect(await rig.guest.detach('signal', 'test')).toMatchObject({ ok: true });
    });

    test('a module of that name, loaded by somebody in the guest: EEXIST', async () => {
      await install(rig.machine, fixture('hello'), '/tmp/hello.ko');
      await rig.machine.check('insmod /tmp/hello.ko');
      expect(await forced(fixture('hello'))).toMatchObject({
        ok: false,
        errno: 'EEXIST',
        message: expect.stringMatching(/a module hello is loaded already.*rmmod hello/),
      });
      await rig.machine.check('rmmod hello');
    });
  });

  describe('its init function', () => {
    test('fails: its own errno', async () => {
      expect(await forced(fixture('initfail'))).toMatchObject({
        ok: false,
        errno: 'ENODEV',
        // It was armed for a moment.
        points: [{ name: 'do_exit', armed: false, error: '' }],
        message: expect.stringMatching(/its init function failed, .*\(ENODEV\); see the kernel log/),
      });
    });

    test('misses a required point: ENOENT, and the point is named', async () => {
      const result = await forced(fixture('missingpoint'), ['strict=1']);
      expect(result).toMatchObject({
        ok: false,
        errno: 'ENOENT',
        message: expect.stringContaining('vesper_no_such_function'),
      });
      expect(result.points).toContainEqual(
        expect.objectContaining({ name: 'vesper_no_such_function', armed: false, error: 'ENOENT' }),
      );
      expect(result.points).toContainEqual(
        expect.objectContaining({ name: 'do_exit', armed: false, error: '' }),
      );
    });

    test('misses points that are not required: it is loaded, with a warning for each, and works', async () => {
      const [result] = await rig.tryAttach([fixture('missingpoint')]);
      expect(result).toMatchObject({
        ok: true,
        errno: '',
        armed_points: 1,
        warnings: expect.arrayContaining([
          expect.stringMatching(/vesper_no_such_function did not arm: ENOENT/),
          expect.stringMatching(/vesper_no_such_tracepoint did not arm: ENOENT/),
        ]),
      });
      await rig.machine.run('actor --name seen segv');
      await rig.event(({ probe, fields }) => probe === 'missingpoint' && fields['comm'] === 'seen');
      expect(await rig.guest.detach('missingpoint', 'test')).toMatchObject({ ok: true });
    });

    test('registers no probe: it is loaded, listed and unloaded', async () => {
      const [result] = await rig.attach([fixture('hello')], ['greeting=ciao']);
      expect(result).toMatchObject({
        ok: true,
        armed_points: 0,
        message: expect.stringMatching(/no events/),
      });
      expect(rig.view.probes).toMatchObject([{ name: 'hello', loaded: true }]);
      expect(await loadedModules(rig.machine)).toContain('hello');
      await rig.machine.waitConsole(/hello: ciao/, 30_000);
      expect(await rig.guest.detach('hello', 'test')).toMatchObject({ ok: true });
      expect(rig.view.probes).toEqual([]);
    });

    test('finds ftrace switched off: EOPNOTSUPP, and the switch is named; switched on, the probe is armed', async () => {
      await rig.machine.check('echo 0 >/proc/sys/kernel/ftrace_enabled');
      expect(await forced(signal)).toMatchObject({
        ok: false,
        errno: 'EOPNOTSUPP',
        message: expect.stringContaining('sysctl kernel.ftrace_enabled=1'),
      });
      await rig.machine.check('echo 1 >/proc/sys/kernel/ftrace_enabled');
      await rig.attach([signal]);
      await seesDeath(rig, 'traced');
      expect(await rig.guest.detach('signal', 'test')).toMatchObject({ ok: true });
    });
  });

  test('after all that a good probe still works, and nothing of the others is left', async () => {
    expect(await loadedModules(rig.machine)).toEqual(atFirst);
    expect(rig.view).toMatchObject({ state: 'active', probes: [], past: [] });
    await rig.attach([signal]);
    await seesDeath(rig, 'after');
    expect(await rig.guest.detach('signal', 'test')).toMatchObject({ ok: true });
    expect(rig.guest.wanted).toEqual([]);
    expectNoComplaints(rig.machine.console());
  });
});

describe.each(['6.1', '6.12'] as const)('the policy of a guest with kernel %s', (kernel) => {
  test('locked down, for signed modules only, without module loading: what was attached before goes on', async () => {
    await using rig = await Rig.start({ kernel });
    const { machine } = rig;
    await rig.attach(['signal']);
    const attached = await loadedModules(machine);
    const refused = async () => (await rig.tryAttach(['oom']))[0];

    // None of these can be taken back; the later ones are looked at first.
    await machine.check('mount -t securityfs none /sys/kernel/security');
    await machine.check('echo integrity >/sys/kernel/security/lockdown');
    expect(await refused()).toMatchObject({
      ok: false,
      errno: 'EPERM',
      message: expect.stringMatching(/locked down and loads signed modules only \(sign it/),
    });
    await machine.check('echo 1 >/sys/module/module/parameters/sig_enforce');
    expect(await refused()).toMatchObject({
      ok: false,
      errno: 'EKEYREJECTED',
      message: expect.stringMatching(/signed modules only.*sign it with a key/),
    });
    await machine.check('echo 1 >/proc/sys/kernel/modules_disabled');
    expect(await refused()).toMatchObject({
      ok: false,
      errno: 'EPERM',
      message: expect.stringMatching(
        /module loading disabled \(kernel\.modules_disabled=1, until its next reboot\)/,
      ),
    });

    expect(await loadedModules(machine)).toEqual(attached);
    expect(rig.guest.wanted.map(({ name }) => name)).toEqual(['signal']);
    await seesDeath(rig, 'policed');
    expectNoComplaints(machine.console());
  });
});

async function loadedModules(machine: Machine): Promise<readonly string[]> {
  const names = (await machine.check('cut -d" " -f1 /proc/modules')).split('\n').map((name) => name.trim());
  return names.sort();
}

/** Copies a small file into the guest, over its shell. */
async function install(machine: Machine, from: string, to: string): Promise<void> {
  const text = readFileSync(from).toString('base64');
  // The line editor of the guest's shell takes no more than 1024 bytes, and what it gets is encoded once more.
  const pieces = text.match(/.{1,500}/g) ?? [];
  for (const piece of pieces) await machine.check(`printf %s ${piece} >>${to}.base64`);
  await machine.check(`base64 -d <${to}.base64 >${to}`);
}

async function seesDeath(rig: Rig, comm: string): Promise<VesperEvent> {
  await rig.machine.run(`actor --name ${comm} segv`);
  return rig.event(({ event, fields }) => event === 'died' && fields['comm'] === comm);
}
