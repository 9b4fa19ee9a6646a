// SPDX-License-Identifier: Apache-2.0

/** A state directory without room. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { leftovers, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

describe('a full state directory', () => {
  test('is named in the error; nothing is loaded that could not be remembered', async ({ skip }) => {
    const machine = await Machine.boot();
    const service = new ServiceProcess(machine);
    const state = join(service.directory, 'state');
    mkdirSync(state);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24k', 'tmpfs', state], { stdio: 'pipe' });
    } catch (thrown) {
      await machine.close();
      rmSync(service.directory, { recursive: true });
      skip(`a small tmpfs cannot be mounted here: ${thrown}`);
    }
    onTestFinished(async () => {
      await service.kill();
      execFileSync('umount', [state]);
      await service.close();
    });
    await service.start();
    await service.guestUntil(({ state: now }) => now === 'active');

    const { status, stderr } = await service.vesper('attach', machine.name, 'signal');
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringMatching(/images cannot be kept in .*\/state\/images: .*ENOSPC/),
    });
    expect(await machine.run('grep signal /proc/modules')).toMatchObject({ status: 1 });
    const [guest] = await service.api.guests();
    expect(guest).toMatchObject({ state: 'active', probes: [] });
    expect(
      readdirSync(state, { recursive: true }).filter((name) => String(name).startsWith('images/')),
    ).toEqual([]);

    // With room again it works.
    execFileSync('mount', ['-o', 'remount,size=4m', state]);
    expect(await service.vesper('attach', machine.name, 'signal')).toMatchObject({ status: 0 });
  });
});
