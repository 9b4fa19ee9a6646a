// SPDX-License-Identifier: Apache-2.0

import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  createRegionFile,
  readRegionFile,
  removeRegionFiles,
  restampRegionFile,
} from '../../host/provider/region-file.ts';
import { regionHeader, regionMagic } from '../../host/wire/region.ts';
import { decode } from '../../host/wire/struct.ts';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-region-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

describe('a region file', () => {
  it('has its size on disk, is private and carries the stamp', async () => {
    const region = await createRegionFile(join(folder, 'vesper-g1'), 1 << 20);
    const { mode, size, blocks } = statSync(region.path);
    expect({ mode: mode & 0o777, size, allocated: blocks * 512 >= 1 << 20 }).toEqual({
      mode: 0o600,
      size: 1 << 20,
      allocated: true,
    });
    expect(decode(regionHeader, new Uint8Array(readFileSync(region.path)))).toMatchObject({
      magic: regionMagic,
      layout_version: 1,
      region_bytes: 1n << 20n,
      token: region.token,
      epoch: 0n,
      state: 0,
    });
    expect(region.token.some((byte) => byte !== 0)).toBe(true);
  });

  it('is read back as it was made', async () => {
    const region = await createRegionFile(join(folder, 'vesper-g1'), 1 << 16);
    expect(await readRegionFile(region.path)).toEqual(region);
  });

  it('is made anew each time, with a token of its own', async () => {
    const [a, b] = [
      await createRegionFile(join(folder, 'r'), 1 << 16),
      await createRegionFile(join(folder, 'r'), 1 << 16),
    ];
    expect(a.path).not.toBe(b.path);
    expect(Buffer.from(a.token).equals(b.token)).toBe(false);
  });

  it.each([0, 4096, 3 << 20, (1 << 20) + 1, Number.NaN, -65536])(
    'of %d bytes is refused: QEMU would abort',
    async (bytes) => {
      await expect(createRegionFile(join(folder, 'r'), bytes)).rejects.toMatchObject({ code: 'USAGE' });
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  it('that cannot be made is an error of the host', async () => {
    await expect(createRegionFile(join(folder, 'no', 'such', 'r'), 1 << 16)).rejects.toMatchObject({
      code: 'HOST',
    });
  });

  it.runIf(process.getuid?.() === 0)('in a full tmpfs fails here, and not as SIGBUS in QEMU', async () => {
    const small = join(folder, 'small');
    mkdirSync(small);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', small]);
    try {
      await expect(createRegionFile(join(small, 'r'), 1 << 20)).rejects.toMatchObject({
        code: 'HOST',
        message: expect.stringContaining('no room for 1048576 bytes'),
      });
      expect(readdirSync(small)).toEqual([]);
    } finally {
      execFileSync('umount', [small]);
    }
  });

  it.each([
    ['that is gone', () => {}],
    ['that is empty', (path: string) => writeFileSync(path, '')],
    ['with other content', (path: string) => writeFileSync(path, Buffer.alloc(1 << 16, 7))],
    ['that is a link', (path: string) => symlinkSync('/etc/passwd', path)],
  ])('%s is none', async (_, make) => {
    const path = join(folder, 'r');
    make(path);
    expect(await readRegionFile(path)).toBeUndefined();
  });

  it('whose size is not what its header says is none', async () => {
    const { path } = await createRegionFile(join(folder, 'r'), 1 << 16);
    writeFileSync(path, 'more', { flag: 'a' });
    expect(await readRegionFile(path)).toBeUndefined();
  });

  it.each(['magic', 'layout_version', 'region_bytes', 'token'] as const)(
    'whose %s the guest overwrote is none',
    async (field) => {
      const { path } = await createRegionFile(join(folder, 'r'), 1 << 16);
      const raw = readFileSync(path);
      const last = regionHeader.offsets[field] + (field === 'token' ? 15 : 3);
      raw.writeUInt8(raw.readUInt8(last) ^ 1, last);
      writeFileSync(path, raw);
      expect(await readRegionFile(path)).toBeUndefined();
      const restored = await restampRegionFile(path);
      expect(restored).toBeDefined();
      expect({ ...(await readRegionFile(path)), restamped: true }).toEqual(restored);
    },
  );

  it('left behind is removed, those of other machines stay', async () => {
    await createRegionFile(join(folder, 'vesper-g1'), 1 << 16);
    await createRegionFile(join(folder, 'vesper-g1'), 1 << 16);
    const other = await createRegionFile(join(folder, 'vesper-g1-00c0ffee'), 1 << 16);
    await removeRegionFiles(join(folder, 'vesper-g1'));
    expect(readdirSync(folder).map((name) => join(folder, name))).toEqual([other.path]);
  });
});
