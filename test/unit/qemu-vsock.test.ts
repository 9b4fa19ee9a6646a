// SPDX-License-Identifier: Apache-2.0

/** Which way leads to a guest over vsock. QEMU makes a vhost-vsock device only on a host that has vhost_vsock. */

import { describe, expect, it } from 'vitest';
import type { z } from 'zod';
import type { QmpClient } from '../../host/provider/qemu/qmp.ts';
import type { Site } from '../../host/provider/qemu/site.ts';
import { findVsock } from '../../host/provider/qemu/vsock.ts';

/** A machine with these devices, by their ids. */
function site(types: Readonly<Record<string, string>>, cids: Readonly<Record<string, number>> = {}): Site {
  const children = Object.entries(types).map(([name, type]) => ({ name, type: `child<${type}>` }));
  const answers: Record<string, (args: Readonly<Record<string, unknown>>) => unknown> = {
    'qom-list': ({ path }) => (path === '/machine/peripheral' ? children : []),
    'qom-get': ({ path, property }) =>
      property === 'guest-cid' ? cids[String(path).replace('/machine/peripheral/', '')] : undefined,
  };
  const execute = async <T>(
    command: string,
    args: Record<string, unknown>,
    shape: z.ZodType<T>,
  ): Promise<T> => shape.parse(answers[command]?.(args));
  return { name: 'g1', qmp: { execute } as unknown as QmpClient } as Site;
}

describe('vsock of a QEMU', () => {
  it.each(['vhost-vsock-pci', 'vhost-vsock-pci-non-transitional', 'vhost-vsock-ccw'])(
    '%s: by its CID',
    async (type) => {
      expect(await findVsock(site({ net0: 'virtio-net-pci', vsock0: type }, { vsock0: 7 }))).toEqual({
        cid: 7,
      });
    },
  );

  it('vhost-user-vsock-pci: through the socket of its backend', async () => {
    const machine = site({ vsock0: 'vhost-user-vsock-pci' });
    expect(await findVsock({ ...machine, hybridVsockPath: '/run/g1.vsock' })).toEqual({
      hybridPath: '/run/g1.vsock',
    });
    expect(await findVsock(machine)).toEqual({ lacks: expect.stringContaining('--vsock g1=/path') });
  });

  it('none: the argument that adds one', async () => {
    expect(await findVsock(site({ net0: 'virtio-net-pci' }))).toEqual({
      lacks: expect.stringContaining('device_add vhost-vsock-pci,guest-cid=3'),
    });
  });
});
