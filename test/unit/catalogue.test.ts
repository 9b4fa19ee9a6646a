// SPDX-License-Identifier: Apache-2.0

import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Catalogue } from '../../host/probe/catalogue.ts';
import type { GuestKernel } from '../../host/probe/finding.ts';
import { parseImage, readImage } from '../../host/probe/image.ts';
import { ImageStore } from '../../host/probe/image-store.ts';
import { descriptorSections, modinfo, moduleImage, probe } from '../fixtures/module-image.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vesper-catalogue-'));
});
afterEach(() => rmSync(root, { recursive: true }));

const flags = 'SMP preempt mod_unload modversions ';

function image(release: string, name = 'fixture', version = '1'): Uint8Array {
  return moduleImage({
    name,
    modinfo: [
      ...modinfo.filter((line) => !/^(name|vermagic|version)=/.test(line)),
      `vermagic=${release} ${flags}`,
      `version=${version}`,
    ],
    sections: descriptorSections({ probe: [{ ...probe, name }] }),
  });
}

function put(path: string, bytes: Uint8Array): string {
  const file = join(root, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, bytes);
  renameSync(`${file}.new`, file);
  return file;
}

const guest = (release: string, changes: Partial<GuestKernel> = {}): GuestKernel => ({
  name: 'web1',
  kernelRelease: release,
  vermagic: `${release} ${flags}`,
  machine: 'x86_64',
  imageMax: 4 << 20,
  ...changes,
});

describe('the catalogue', () => {
  it('lists probes with the kernels they are built for, and what cannot be used', async () => {
    put('6.1.0-56/signal.ko', image('6.1.0-56', 'signal'));
    put('6.12.9/signal.ko', image('6.12.9', 'signal'));
    put('6.1.0-56/disk.ko', image('6.1.0-56', 'disk'));
    put('6.1.0-56/vesper.ko', image('6.1.0-56', 'vesper'));
    put('6.1.0-56/fixtures/hidden.ko', image('6.1.0-56', 'hidden'));
    put('loose.ko', image('6.1.0-56', 'loose'));
    const broken = put('6.12.9/broken.ko', Buffer.from('not a module'));
    put('6.12.9/Module.symvers', Buffer.from(''));
    const { probes, problems } = await new Catalogue([root, join(root, 'missing')]).list();
    expect(
      probes.map(({ name, images }) => [name, images.map(({ kernelRelease }) => kernelRelease)]),
    ).toEqual([
      ['disk', ['6.1.0-56']],
      ['loose', ['6.1.0-56']],
      ['signal', ['6.12.9', '6.1.0-56']],
    ]);
    expect(problems).toEqual([{ path: broken, problem: expect.stringContaining('it is not an ELF file') }]);
  });

  it('prefers the root that is named first', async () => {
    put('a/6.1.0/x.ko', image('6.1.0', 'x', 'mine'));
    put('b/6.1.0/x.ko', image('6.1.0', 'x', 'theirs'));
    const { images } = await new Catalogue([join(root, 'a'), join(root, 'b')]).find('x');
    expect(images.map(({ image: { version } }) => version)).toEqual(['mine']);
  });

  it('says which of two files in a folder is taken for a probe', async () => {
    put('6.1.0/a.ko', image('6.1.0', 'x', 'first'));
    put('6.1.0/b.ko', image('6.1.0', 'x', 'second'));
    const { problems } = await new Catalogue([root]).list();
    expect(problems).toEqual([
      { path: join(root, '6.1.0/b.ko'), problem: expect.stringContaining('a.ko does') },
    ]);
  });

  it('finds the build for the very kernel, else the nearest of its series', async () => {
    for (const release of ['6.1.0-9', '6.1.0-10', '6.12.9']) put(`${release}/x.ko`, image(release, 'x'));
    const catalogue = new Catalogue([root]);
    expect(await catalogue.imageFor('x', guest('6.1.0-9'))).toMatchObject({
      kernelRelease: '6.1.0-9',
      exact: true,
    });
    expect(await catalogue.imageFor('x', guest('6.1.0-11'))).toMatchObject({
      kernelRelease: '6.1.0-10',
      exact: false,
    });
  });

  it.each([
    ['another series', guest('6.6.0')],
    ['other features', guest('6.1.0-11', { vermagic: '6.1.0-11 SMP mod_unload modversions ' })],
    ['another architecture', guest('6.1.0-10', { machine: 'aarch64' })],
  ])('refuses a guest with %s and names the command that helps', async (_name, kernel) => {
    put('6.1.0-10/x.ko', image('6.1.0-10', 'x'));
    await expect(new Catalogue([root]).imageFor('x', kernel)).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringMatching(/only for 6\.1\.0-10; build it with: vesper build x --kernel 6\./),
    });
  });

  it('names the probes there are where one is not found', async () => {
    put('6.1.0/x.ko', image('6.1.0', 'x'));
    await expect(new Catalogue([root]).find('y')).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: 'There is no probe y; the catalogue has x.',
    });
    await expect(new Catalogue([]).find('y')).rejects.toThrow('is empty');
  });

  it('reads a file again only when it changed', async () => {
    const file = put('6.1.0/x.ko', image('6.1.0', 'x'));
    const catalogue = new Catalogue([root]);
    const first = (await catalogue.find('x')).images[0].image;
    expect((await catalogue.find('x')).images[0].image).toBe(first);
    utimesSync(file, 1, 1);
    expect((await catalogue.find('x')).images[0].image).not.toBe(first);
    put('6.1.0/x.ko', image('6.1.0', 'x', '2'));
    expect((await catalogue.find('x')).images[0].image.version).toBe('2');
    rmSync(file);
    symlinkSync('nowhere', file);
    expect(await catalogue.list()).toEqual({ probes: [], problems: [] });
  });
});

describe('an image file', () => {
  it.each([
    ['missing.ko', 'NOT_FOUND', /There is no file .*missing\.ko\./],
    ['.', 'BAD_IMAGE', /is a folder; name the \.ko file in it/],
  ])('%s is refused', async (path, code, message) => {
    await expect(readImage(join(root, path))).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  });

  it('that is a BPF object is refused with what to do', () => {
    expect(() => parseImage(moduleImage({ machine: 247 }), 'x.o')).toThrow(
      'it is a BPF object, which this version does not load',
    );
  });
});

describe('the image store', () => {
  const kept = () => parseImage(image('6.1.0', 'x'), 'x.ko');

  it('gives a later service the declaration of what was pushed', () => {
    const directory = join(root, 'state/images');
    new ImageStore(directory).save(kept());
    expect(new ImageStore(directory).load(kept().sha256)).toEqual(kept());
    expect(readdirSync(directory)).toEqual([`${kept().sha256}.ko`]);
  });

  it('gives nothing for what it does not have, or what was tampered with', () => {
    const store = new ImageStore(root);
    expect(store.load(kept().sha256)).toBeUndefined();
    expect(store.load('../../etc/passwd')).toBeUndefined();
    put(`${kept().sha256}.ko`, image('6.1.0', 'other'));
    expect(store.load(kept().sha256)).toBeUndefined();
    put(`${kept().sha256}.ko`, Buffer.from('half'));
    expect(store.load(kept().sha256)).toBeUndefined();
  });

  it('forgets what nobody needs, and what a crash left half written', () => {
    const store = new ImageStore(root);
    const other = parseImage(image('6.1.0', 'y'), 'y.ko');
    store.save(kept());
    store.save(other);
    put(`.${kept().sha256}.0123abcd`, Buffer.from('half'));
    put('notes.txt', Buffer.from('mine'));
    store.prune(new Set([other.sha256]));
    expect(readdirSync(root).sort()).toEqual([`${other.sha256}.ko`, 'notes.txt'].sort());
    expect(store.load(kept().sha256)).toBeUndefined();
  });

  it('says where it cannot keep an image', () => {
    put('file', Buffer.from(''));
    expect(() => new ImageStore(join(root, 'file/images')).save(kept())).toThrow(
      /Probe images cannot be kept in .*file\/images/,
    );
  });
});
