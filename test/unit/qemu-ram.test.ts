// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import { offsetIn, ramRanges } from '../../host/provider/qemu/ram.ts';

const gib = 2n ** 30n;

/** As QEMU 7.2 prints it for 4352 MiB; its lines end as the monitor ends them. */
const map = [
  'FlatView #0',
  ' AS "I/O", root: io',
  '  0000000000000000-000000000000ffff (prio 0, i/o): ram',
  '',
  'FlatView #1',
  ' AS "memory", root: system',
  ' AS "cpu-memory-0", root: system',
  ' Root memory region: system',
  '  0000000000000000-00000000000bffff (prio 0, ram): ram',
  '  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom',
  '  0000000000100000-00000000bfffffff (prio 0, ram): ram @0000000000100000',
  '  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram',
  '  0000000100000000-000000014fffffff (prio 0, ram): ram @00000000c0000000 KVM',
  '',
  'FlatView #2',
  ' AS "cpu-smm-0", root: memory',
  '  0000000000000000-00000000ffffffff (prio 0, ram): ram @0000000500000000',
].join('\r\n');

describe('where guest memory lies in the file of the RAM', () => {
  const ranges = ramRanges(map, '/objects/ram');

  test("is read from the machine's own view", () => {
    expect(ranges).toEqual([
      { address: 0n, bytes: 0xc0000n, offset: 0n },
      { address: 0x100000n, bytes: 3n * gib - 0x100000n, offset: 0x100000n },
      { address: 4n * gib, bytes: 0x50000000n, offset: 3n * gib },
    ]);
  });

  test.each([
    ['below the hole', 0x200000n, 4096n, 0x200000],
    ['above it, less its size', 4n * gib + 0x1000n, 4096n, 3 * 2 ** 30 + 0x1000],
    ['up to the very end', 4n * gib, 0x50000000n, 3 * 2 ** 30],
  ])('%s', (_, address, bytes, offset) => expect(offsetIn(ranges, address, bytes)).toBe(offset));

  test.each([
    ['in the hole', 3n * gib, 4096n],
    ['across its edge', 3n * gib - 4096n, 8192n],
    ['behind the end', 4n * gib + 0x50000000n, 4096n],
    ['longer than the RAM', 4n * gib, 0x50001000n],
    ["of a device's memory", 0xfd000000n, 4096n],
    ['so far and long that the sum is small again', 2n ** 64n - 4096n, 8192n],
  ])('%s: nowhere', (_, address, bytes) => expect(offsetIn(ranges, address, bytes)).toBeUndefined());

  test('a machine with another backend, or a map that is not understood', () => {
    expect(ramRanges(map, '/objects/other')).toEqual([]);
    expect(ramRanges('nonsense', '/objects/ram')).toEqual([]);
  });
});
