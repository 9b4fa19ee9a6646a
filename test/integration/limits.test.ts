// SPDX-License-Identifier: Apache-2.0

/** As many probes, as large images and as long parameters as a guest takes, and what is beyond. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { limits } from '../../host/wire/message.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, Rig } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

describe('a guest', () => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await Rig.start();
  });
  afterAll(() => rig?.close());

  const hello = readFileSync(fixturePath('6.1', 'hello'));

  function file(name: string, bytes: Buffer): string {
    const path = join(rig.directory, name);
    writeFileSync(path, bytes);
    return path;
  }

  /** The module under another name of the same length. */
  function renamed(name: string): string {
    const text = hello.toString('latin1').replaceAll('hello\0', `${name}\0`);
    return file(`${name}.ko`, Buffer.from(text, 'latin1'));
  }

  test('takes as many probes as it has slots, after a restart of the service, too; the next one is refused', async () => {
    const slots = limits.SLOTS.value;
    const names = Array.from({ length: slots }, (_, at) => `h${String(at).padStart(4, '0')}`);
    await rig.attach(names.map(renamed));
    const full = {
      ok: false,
      message: expect.stringMatching(/All 64 probe slots of guest .* are taken: detach a probe first/),
    };
    await expect(rig.tryAttach([renamed('extra')])).resolves.toMatchObject([full]);
    expect(rig.guest.wanted).toHaveLength(slots);

    await rig.restartService();
    expect(rig.view.probes.filter(({ loaded }) => loaded).map(({ name }) => name)).toEqual(names);
    await expect(rig.tryAttach([renamed('extra')])).resolves.toMatchObject([full]);

    await rig.guest.detach('h0007', 'test');
    expect(await rig.attach([renamed('extra')])).toMatchObject([{ ok: true }]);
    for (const { name } of rig.view.probes)
      expect(await rig.guest.detach(name, 'test')).toMatchObject({ ok: true });
    expect(await rig.machine.run('grep -cE "^(h0|extra)" /proc/modules')).toMatchObject({ output: '0' });
  });

  test('takes an image as large as its frontend says, and none that is larger', async () => {
    const { image_max: most } = rig.view;
    expect(most).toBe(1 << 20);
    const largest = file('largest.ko', Buffer.concat([hello, Buffer.alloc(most - hello.length)]));
    expect(await rig.attach([largest])).toMatchObject([{ ok: true }]);
    await rig.guest.detach('hello', 'test');

    const larger = file('larger.ko', Buffer.concat([hello, Buffer.alloc(most + 1 - hello.length)]));
    expect(await rig.tryAttach([larger])).toMatchObject([
      {
        ok: false,
        errno: '',
        message: expect.stringMatching(/takes at most 1048576; remove debug information with strip -g/),
      },
    ]);
    expect(await rig.tryAttach([larger], [], true)).toMatchObject([
      {
        ok: false,
        errno: 'EFBIG',
        message: expect.stringMatching(/1048577 bytes is larger than the 1048576 .* strip -g/),
      },
    ]);
  });

  test('takes parameters as long as its kernel does, and none that are longer', async () => {
    const probe = fixturePath('6.1', 'hello');
    const greeting = (bytes: number) => [`greeting=${'x'.repeat(bytes)}`];
    expect(await rig.attach([probe], greeting(1024))).toMatchObject([{ ok: true }]);
    await rig.guest.detach('hello', 'test');
    await expect(rig.tryAttach([probe], greeting(1025))).rejects.toThrow(
      /^Parameter hello.greeting \(charp\) cannot be "x{60}…": it is longer than 1024 bytes/,
    );
  });

  test('is as it was afterwards', async () => {
    expect(rig.view).toMatchObject({ state: 'active', probes: [], past: [] });
    await rig.attach(['signal']);
    await rig.machine.run('actor --name afterwards segv');
    await rig.event(({ fields }) => fields['comm'] === 'afterwards');
    expectNoComplaints(rig.machine.console());
  });
});
