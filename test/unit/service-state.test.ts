// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { silentLog } from '../../host/log.ts';
import { Backoff } from '../../host/service/backoff.ts';
import { InstanceLock } from '../../host/service/instance-lock.ts';
import { SessionMemory } from '../../host/service/session-memory.ts';
import { WantedState } from '../../host/service/wanted.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe('wanted state', () => {
  const path = () => join(directory, 'wanted.json');
  const u1 = { name: 'web1', uuid: 'u1' };
  const rule = (guest: string, ...names: readonly string[]) => ({
    guest,
    probes: names.map((name) => ({ name, parameters: { from: guest }, where: `v.yaml:${guest}` })),
  });

  test('what was attached is there for the next service, what was detached is not', async () => {
    const state = WantedState.load(path());
    state.add(u1, { name: 'signal', parameters: { signals: 'SIGKILL' } });
    state.add(u1, { name: 'oom', parameters: {} });
    expect(state.remove(u1, 'oom')).toBe(true);
    expect(state.remove(u1, 'oom')).toBe(false);
    await state.saved();
    expect(WantedState.load(path()).of(u1)).toEqual([{ name: 'signal', parameters: { signals: 'SIGKILL' } }]);
    expect(WantedState.load(path()).of({ name: 'two', uuid: 'u2' })).toEqual([]);
  });

  test('what the configuration asks for is wanted where name or UUID match, the last rule that matches decides', () => {
    const state = WantedState.load(path());
    state.configure([
      rule('*', 'signal'),
      rule('we?1', 'signal', 'oom'),
      rule('U2', 'oom'),
      rule('web', 'x'),
    ]);
    expect(state.of(u1)).toEqual([
      { name: 'signal', parameters: { from: 'we?1' }, configured: 'v.yaml:we?1' },
      { name: 'oom', parameters: { from: 'we?1' }, configured: 'v.yaml:we?1' },
    ]);
    expect(state.of({ name: 'db', uuid: 'u2' }).map(({ name }) => name)).toEqual(['signal', 'oom']);
    // A dot is a dot, and a bracket a bracket.
    state.configure([rule('a.b[1]', 'signal')]);
    expect(state.of({ name: 'axb1', uuid: 'u3' })).toEqual([]);
    expect(state.of({ name: 'a.b[1]', uuid: 'u3' })).toHaveLength(1);
  });

  test('what was attached counts more, and stays when the configuration no longer asks for it', async () => {
    const state = WantedState.load(path());
    state.configure([rule('web1', 'signal')]);
    state.add(u1, { name: 'signal', parameters: { mine: '1' } });
    expect(state.of(u1)).toEqual([{ name: 'signal', parameters: { mine: '1' } }]);
    state.configure([]);
    expect(state.of(u1)).toHaveLength(1);
    await state.saved();
  });

  test('what was detached stays so, for the next service, too, until it is asked for anew', async () => {
    const before = WantedState.load(path());
    before.configure([rule('web1', 'signal', 'oom')]);
    expect(before.remove(u1, 'signal')).toBe(true);
    await before.saved();
    const state = WantedState.load(path());
    state.configure([rule('web1', 'signal', 'oom')]);
    state.forgetHeld(u1);
    expect(state.of(u1).map(({ name }) => name)).toEqual(['oom']);
    expect(state.remove(u1, 'signal')).toBe(false);

    state.configure([rule('web1', 'oom')]);
    state.forgetHeld(u1);
    state.configure([rule('web1', 'signal', 'oom')]);
    expect(state.of(u1).map(({ name }) => name)).toEqual(['signal', 'oom']);
    await state.saved();
  });

  test('what cannot be written is told to whoever waits for it, and written when it can be', async () => {
    const state = WantedState.load(join(directory, 'state', 'wanted.json'));
    writeFileSync(join(directory, 'state'), 'in the way');
    state.add(u1, { name: 'signal', parameters: {} });
    await expect(state.saved()).rejects.toThrow(/cannot write .*wanted\.json: .*make room/);
    rmSync(join(directory, 'state'));
    state.add(u1, { name: 'oom', parameters: {} });
    await state.saved();
    expect(WantedState.load(join(directory, 'state', 'wanted.json')).of(u1)).toHaveLength(2);
  });

  test('a file of an older service, which knew no configuration, is read', () => {
    writeFileSync(path(), JSON.stringify({ version: 1, guests: { u1: [{ name: 'oom', parameters: {} }] } }));
    expect(WantedState.load(path()).of(u1)).toEqual([{ name: 'oom', parameters: {} }]);
  });

  test('a file that is not ours is refused, not overwritten', () => {
    writeFileSync(path(), '{"version": 2}');
    expect(() => WantedState.load(path())).toThrow(/wanted\.json/);
    expect(readFileSync(path(), 'utf8')).toBe('{"version": 2}');
  });
});

describe('session memory', () => {
  const state = {
    bootId: 'ab',
    epoch: '12345678901234567890',
    probes: [{ slot: 0, name: 'signal', sha256: 'ff', args: '' }],
  };

  test('is read back; a broken file counts as none', () => {
    const memory = new SessionMemory(directory, silentLog());
    expect(memory.load('u1')).toBeUndefined();
    memory.save('u1', state);
    expect(memory.load('u1')).toEqual(state);
    writeFileSync(join(directory, 'u1.json'), 'not JSON');
    expect(memory.load('u1')).toBeUndefined();
  });
});

describe('instance lock', () => {
  test('a second service is refused by name of the process, a dead one is not in the way', () => {
    const path = join(directory, 'lock');
    const lock = InstanceLock.take(path);
    expect(() => InstanceLock.take(path)).toThrow(String(process.pid));
    lock.release();
    // A process that is gone, and one whose number was given to another since.
    writeFileSync(path, '999999999 1\n');
    InstanceLock.take(path).release();
    writeFileSync(path, `${process.pid} 1\n`);
    InstanceLock.take(path).release();
  });

  test('a process that is dead does not hold it, though nobody asks how it ended', async () => {
    const parent = spawn('bash', ['-c', 'true & echo $!; exec sleep 600']);
    onTestFinished(() => void parent.kill());
    const [pid] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string];
    const fields = () => readFileSync(`/proc/${pid}/stat`, 'utf8').split(' ');
    await expect.poll(() => fields()[2]).toBe('Z');
    const path = join(directory, 'lock');
    writeFileSync(path, `${pid} ${fields()[21]}\n`);
    InstanceLock.take(path).release();
  });
});

describe('backoff', () => {
  test('doubles from the first wait to the limit, and starts anew after a reset', () => {
    const backoff = new Backoff({ firstMs: 100, mostMs: 1000 });
    const waits = Array.from({ length: 6 }, () => backoff.nextMs());
    [100, 200, 400, 800, 1000, 1000].forEach((expected, at) => {
      expect(waits[at]).toBeGreaterThanOrEqual(expected * 0.8);
      expect(waits[at]).toBeLessThanOrEqual(expected * 1.2);
    });
    backoff.reset();
    expect(backoff.nextMs()).toBeLessThanOrEqual(120);
  });
});
