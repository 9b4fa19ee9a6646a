// SPDX-License-Identifier: Apache-2.0

/** The program as people and scripts use it: several terminals, exit statuses, JSON shapes. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { fetchKernel } from '../../host/kernel/fetch.ts';
import { modulesDirectory, objectsDirectory } from '../../host/kernel/project.ts';
import { leftovers, probePath, repository, ServiceProcess } from '../harness/rig.ts';

const program = join(repository, 'host/main.ts');

afterAll(() => expect(leftovers()).toEqual([]));

describe('with a service and a guest', () => {
  let machine: Machine;
  let service: ServiceProcess;

  beforeAll(async () => {
    machine = await Machine.boot();
    service = new ServiceProcess(machine);
    await service.start();
    await service.guestUntil(({ state }) => state === 'active');
  });
  afterAll(() => service.close());

  /** `vesper …` in a terminal of its own; `line` waits for a line of its output. */
  function terminal(...args: readonly string[]) {
    const child: ChildProcess = spawn(process.execPath, [program, ...args], { env: service.environment });
    onTestFinished(() => {
      child.kill();
    });
    const lines: string[] = [];
    const waiting: (() => void)[] = [];
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      lines.push(line);
      for (const look of waiting) look();
    });
    const line = (pattern: RegExp): Promise<string> =>
      new Promise((resolve) => {
        const look = () => {
          const found = lines.find((candidate) => pattern.test(candidate));
          if (found !== undefined) resolve(found);
        };
        waiting.push(look);
        look();
      });
    return { child, line };
  }

  test('attach in one terminal, events in another', async () => {
    const events = terminal(
      'events',
      '-f',
      '--json',
      '--since',
      '1m',
      '--event',
      'died',
      '--where',
      'comm=victim',
    );
    const attached = await service.vesper(
      'attach',
      machine.name,
      'signal',
      'oom',
      '--param',
      'signals=SIGSEGV,SIGKILL',
    );
    expect(attached).toMatchObject({ status: 0, stderr: '' });
    expect(attached.stdout).toMatch(/✓ signal is armed: 2 of 2 probe points/);
    expect(attached.stdout).toMatch(/✓ oom is armed: 5 of 5 probe points/);

    await machine.run('actor --name other segv; actor --name victim segv');

    const event = JSON.parse(await events.line(/./)) as Record<string, unknown>;
    expect(event).toMatchObject({
      type: 'event',
      guest: machine.name,
      uuid: machine.uuid,
      probe: 'signal',
      event: 'died',
      severity: 'critical',
      ring: 'critical',
      fields: { signal: 'SIGSEGV', comm: 'victim', address: '0xdead000' },
    });
    expect(event['host_time']).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    expect(event['host_time_error_us']).toBeTypeOf('number');

    const shown = await service.vesper('events', '--where', 'comm=victim', '--event', 'died');
    expect(shown.stdout).toMatch(
      /signal\.died ±[\d.]+ [mµ]s, guest [\d.]+ s, \+[\d.]+ ms\n {4}signal=SIGSEGV/,
    );
  });

  test('guests shows state, channel, reason, probes and losses; --json everything', async () => {
    const text = await service.vesper('guests');
    expect(text.stdout).toMatch(/^GUEST +STATE +CHANNEL +RELAY +DELIVERED +LOST +PROBES +WHY\n/);
    expect(text.stdout).toMatch(
      new RegExp(`${machine.name} +active +virtio-serial +ivshmem +\\d+ +0 +oom signal +activated`),
    );

    const [guest] = JSON.parse((await service.vesper('guests', '--json')).stdout) as Record<
      string,
      unknown
    >[];
    expect(guest).toMatchObject({
      name: machine.name,
      uuid: machine.uuid,
      provider: 'qemu',
      state: 'active',
      relay: { backend: 'ivshmem', lost: 0, gaps: 0, undecodable: 0, quarantined: 0 },
      probes: [
        { name: 'oom', wanted: true, loaded: true, armed_points: 5 },
        { name: 'signal', wanted: true, loaded: true, parameters: { signals: 'SIGSEGV,SIGKILL' } },
      ],
    });
  });

  test('check answers for a guest: its own build loads, that for another kernel does not surely', async () => {
    const own = await service.vesper('check', probePath('6.1', 'signal'), '--guest', machine.name, '--json');
    expect(own.status).toBe(0);
    expect(JSON.parse(own.stdout)).toMatchObject({ guest: machine.name, loads: true, findings: [] });
    const other = await service.vesper(
      'check',
      probePath('6.12', 'signal'),
      '--guest',
      machine.name,
      '--json',
    );
    expect(JSON.parse(other.stdout).findings).not.toEqual([]);
  });

  test.each([
    ['an unknown probe', 1, ['attach', '@', 'nosuch'], /the catalogue has .*signal/s],
    ['an unknown guest', 1, ['attach', 'nobody', 'signal'], /no guest nobody: there are vesper-guest-/],
    ['no argument', 2, ['attach'], /missing required argument 'guest'/],
    ['an unknown command', 2, ['atach'], /unknown command 'atach'/],
    ['an unknown parameter', 2, ['attach', '@', 'signal', '--param', 'colour=red'], /it has comm,\s+signals/],
    [
      'an unknown severity',
      2,
      ['events', '--min-severity', 'loud'],
      /debug, info, notice, warning,\s+critical/,
    ],
    ['a condition nobody understands', 2, ['events', '--where', 'signal'], /field=value/],
    ['detach of nothing', 2, ['detach', '@'], /--all/],
    ['detach of what is not attached', 4, ['detach', '@', 'nosuch'], /not attached/],
    ['other parameters than it has', 4, ['attach', '@', 'signal'], /detach it first/],
  ] as const)('%s: exit status %i and a sentence', async (_what, status, args, sentence) => {
    const result = await service.vesper(...args.map((arg) => (arg === '@' ? machine.name : arg)));
    expect(result.status).toBe(status);
    expect(result.stdout + result.stderr).toMatch(sentence);
  });

  test('detach --all unloads; nothing is wanted any more', async () => {
    const detached = await service.vesper('detach', machine.name, '--all', '--json');
    expect(detached.status).toBe(0);
    expect(JSON.parse(detached.stdout)).toMatchObject([
      { probe: 'oom', ok: true },
      { probe: 'signal', ok: true },
    ]);
    expect(await machine.check('cut -d" " -f1 /proc/modules')).not.toMatch(/^(signal|oom)$/m);
    expect((await service.guestUntil(({ probes }) => probes.length === 0)).state).toBe('active');
  });

  test('stopped by SIGTERM: exit status 0, and the commands say that there is no service', async () => {
    await service.kill('SIGTERM');
    const guests = await service.vesper('guests');
    expect(guests).toMatchObject({ status: 3, stdout: '' });
    expect(guests.stderr).toMatch(/no vesper service answers on .*start it with\s+"vesper serve"/s);
  });
});

describe('without either', () => {
  async function vesper(...args: readonly string[]) {
    const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.resume();
    const [status] = (await once(child, 'close')) as [number];
    return { status, stdout };
  }

  test('build --kernel takes any release of the archive, and says of another that there is none', {
    timeout: 10 * 60_000,
  }, async () => {
    // Of the same version as the cloud kernel, so that the archive has it as long.
    const release = (await fetchKernel('6.1')).release.replace('-cloud', '');
    const output = mkdtempSync(join(tmpdir(), 'vesper-test-'));
    try {
      const built = await vesper('build', 'signal', '--kernel', release, '--output', output);
      expect(built.stdout.trim().split('\n').at(-1)).toBe(join(output, 'signal.ko'));
      expect(built.status).toBe(0);
      const { stdout } = await vesper('check', join(output, 'signal.ko'), '--json');
      expect(stdout).toContain(release);
    } finally {
      // A frontend for it came into being on the way.
      for (const left of [output, modulesDirectory(release), objectsDirectory(release)])
        rmSync(left, { recursive: true, force: true });
    }
    expect((await vesper('build', 'signal', '--kernel', '6.1.0-999-amd64')).status).toBe(1);
  });

  test('demo --json: steps, events and a summary without losses; nothing stays behind', async () => {
    const { status, stdout } = await vesper('demo', '--json');
    expect(status).toBe(0);
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(new Set(lines.map(({ type }) => type))).toEqual(new Set(['step', 'event', 'summary']));
    expect(lines.filter(({ type }) => type === 'step').map(({ ok }) => ok)).not.toContain(false);
    const names = lines.filter(({ type }) => type === 'event').map(({ probe, event }) => `${probe}.${event}`);
    expect(names).toEqual(expect.arrayContaining(['signal.died', 'oom.kill', 'oom.gone']));
    expect(lines.at(-1)).toMatchObject({
      type: 'summary',
      relay: { lost: 0, gaps: 0, undecodable: 0, quarantined: 0 },
    });
  });

  test('doctor names what is there and what is not', async () => {
    const { stdout } = await vesper('doctor', '--json');
    const findings = JSON.parse(stdout) as { what: string; state: string }[];
    expect(findings).toContainEqual(expect.objectContaining({ what: 'relay reader', state: 'ok' }));
    expect(findings).toContainEqual(expect.objectContaining({ what: 'probes', state: 'ok' }));
  });

  test('every command has help with an example', async () => {
    for (const command of [
      'guests',
      'probes',
      'check',
      'attach',
      'detach',
      'events',
      'metrics',
      'serve',
      'demo',
      'doctor',
      'build',
      'install',
      'uninstall',
      'completion',
    ]) {
      const { status, stdout } = await vesper(command, '--help');
      expect(status).toBe(0);
      expect(stdout).toMatch(/Example:\n {2}(vesper|source) /);
    }
  });
});
