// SPDX-License-Identifier: Apache-2.0

/** The libvirt provider with real domains: attached while they run, and as they were afterwards. */

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LibvirtRig } from '../harness/libvirt-rig.ts';

let rig: LibvirtRig;

beforeAll(async () => {
  rig = await LibvirtRig.create();
  await rig.service.start();
});

afterAll(async () => {
  await rig?.close();
  expect(rig?.daemon.processes()).toEqual([]);
});

describe('a domain that runs', () => {
  test.each([
    { machine: 'pc', kernel: '6.1' },
    { machine: 'q35', kernel: '6.1' },
  ] as const)('$machine, $kernel: events arrive; after the last probe it is as it was', async (shape) => {
    const name = `${shape.machine}-${shape.kernel}`;
    const one = await rig.boot({ name, ...shape });
    await rig.service.guestFound(name, 30_000);
    const before = await one.domain.xml();
    expect(rig.view(name)).toMatchObject({ provider: 'libvirt', state: 'running', channel: '' });

    await rig.attach(['signal'], [], name);
    await rig.delivers(one, 'carried');
    const view = rig.view(name);
    expect(view).toMatchObject({
      state: 'active',
      relay: { backend: 'ivshmem', backend_reason: '', lost: 0 },
    });
    expect(view.channel).toMatch(/^virtio-serial port org.vesper.probe.0 \(\/.*\)$/);

    const result = await rig.guest(name).detach('signal', 'test');
    expect(result).toMatchObject({ ok: true });
    expect(await one.domain.xml()).toBe(before);
    expect(rig.regionFiles()).toEqual([]);
    rig.unharmed();
  });
});
