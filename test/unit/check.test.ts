// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkImage } from '../../host/probe/check.ts';
import type { GuestKernel } from '../../host/probe/finding.ts';
import { parseImage } from '../../host/probe/image.ts';
import { type ExportedSymbol, parseSymvers } from '../../host/probe/symvers.ts';
import { builtModules } from '../fixtures/built-probes.ts';
import {
  crcs,
  descriptorSections,
  type ModuleParts,
  modinfo,
  moduleImage,
} from '../fixtures/module-image.ts';

const vermagic = '6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions ';
const guest: GuestKernel = {
  name: 'web1',
  kernelRelease: '6.1.0-56-cloud-amd64',
  vermagic,
  machine: 'x86_64',
  imageMax: 4 << 20,
};

const exported = (crc: number, more: Partial<ExportedSymbol> = {}): ExportedSymbol => ({
  crc,
  gplOnly: false,
  namespace: '',
  module: 'vmlinux',
  ...more,
});
const symbols = new Map([
  ['module_layout', exported(crcs.module_layout)],
  ['_printk', exported(crcs._printk)],
]);

const withInfo = (key: string, value: string): ModuleParts => ({
  modinfo: [...modinfo.filter((line) => !line.startsWith(`${key}=`)), `${key}=${value}`],
});
const findings = (parts: ModuleParts = {}, changes: Partial<GuestKernel> | undefined = {}) =>
  checkImage(parseImage(moduleImage(parts), 'fixture.ko'), changes && { ...guest, ...changes });

describe('a module that fits', () => {
  it('gives no finding', () => {
    expect(findings()).toEqual([]);
    expect(findings({}, { symbols })).toEqual([]);
    expect(checkImage(parseImage(moduleImage(), 'fixture.ko'))).toEqual([]);
  });
});

describe('findings', () => {
  const needs = (...names: string[]): ModuleParts => ({ symbols: names.map((name) => ({ name })) });
  const other = 'vermagic=5.10.0-1-amd64 SMP mod_unload modversions ';
  const without = { ...guest, kernelRelease: '6.5.0', vermagic: '6.5.0 SMP mod_unload ' };

  it.each<[string, ModuleParts, Partial<GuestKernel>, 'error' | 'warning', string, string]>([
    [
      'another architecture',
      { machine: 183 },
      {},
      'error',
      'ARCHITECTURE',
      'is built for aarch64, guest web1 is x86_64',
    ],
    [
      'other kernel features',
      { modinfo: [...modinfo.slice(0, -1), other] },
      {},
      'error',
      'VERMAGIC',
      'only the guest has preempt',
    ],
    ['no vermagic', { modinfo: modinfo.slice(0, -1) }, {}, 'error', 'VERMAGIC', 'has no vermagic'],
    [
      'another release, versions not known',
      withInfo('vermagic', '6.1.0-50-cloud-amd64 SMP preempt mod_unload modversions '),
      {},
      'warning',
      'RELEASE',
      'is built for kernel 6.1.0-50-cloud-amd64, guest web1 runs 6.1.0-56-cloud-amd64: it loads only if',
    ],
    [
      'another release of a kernel without versions',
      { ...withInfo('vermagic', '6.4.0 SMP mod_unload '), crcs: {} },
      without,
      'error',
      'RELEASE',
      'build it with: vesper build fixture --kernel 6.5.0',
    ],
    [
      'no versions where the guest wants them',
      { crcs: {} },
      {},
      'error',
      'SYMBOL_VERSION',
      'has no symbol versions',
    ],
    [
      'other symbol versions',
      {},
      { symbols: new Map([...symbols, ['_printk', exported(1)]]) },
      'error',
      'SYMBOL_VERSION',
      'is built against other versions of _printk than kernel 6.1.0-56-cloud-amd64 of guest web1',
    ],
    [
      'a missing symbol',
      needs('gone_function', 'vesper_probe_register'),
      { symbols },
      'error',
      'MISSING_SYMBOL',
      'needs gone_function, which',
    ],
    [
      'a namespace that is not imported',
      {},
      { symbols: new Map([...symbols, ['_printk', exported(crcs._printk, { namespace: 'SECRET' })]]) },
      'error',
      'NAMESPACE',
      'namespace SECRET without MODULE_IMPORT_NS',
    ],
    [
      'another licence, with symbols of the frontend',
      withInfo('license', 'Proprietary'),
      {},
      'error',
      'LICENCE',
      'vesper_probe_register can be used under the GPL only',
    ],
    [
      'a module it depends on',
      withInfo('depends', 'vesper,nf_tables'),
      {},
      'warning',
      'DEPENDS',
      'needs nf_tables to be loaded',
    ],
    ['no descriptors', { sections: [] }, {}, 'warning', 'DECLARATION', 'declares no events'],
    [
      'a probe that does not register',
      needs('_printk'),
      {},
      'warning',
      'DECLARATION',
      'never calls vesper_probe_register()',
    ],
    [
      'a size beyond the limit',
      {},
      { imageMax: 100 },
      'error',
      'SIZE',
      'guest web1 takes at most 100; remove debug information with strip -g',
    ],
    [
      'lockdown',
      {},
      { lockdown: 'integrity' },
      'error',
      'SIGNATURE',
      'Guest web1 is locked down (integrity)',
    ],
    [
      'signatures',
      {},
      { signatureEnforced: true },
      'error',
      'SIGNATURE',
      'Guest web1 loads signed modules only',
    ],
    [
      'no modules at all',
      {},
      { modulesDisabled: true },
      'error',
      'MODULES_DISABLED',
      'kernel.modules_disabled=1',
    ],
  ])('%s', (_name, parts, changes, severity, code, sentence) => {
    const found = findings(parts, changes);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject({ severity, code });
    expect(found[0]?.sentence).toContain(sentence);
    expect(found[0]?.sentence).toMatch(/^[A-Z].+[^.]\.$/);
  });

  it('warn of another licence where the symbols of the guest are not known', () => {
    const parts = { ...withInfo('license', 'Proprietary'), symbols: [{ name: '_printk' }], sections: [] };
    const licence = (known: Partial<GuestKernel>) =>
      findings(parts, known).filter(({ code }) => code === 'LICENCE');
    expect(licence({})).toMatchObject([
      { severity: 'warning', sentence: expect.stringContaining('will seem to be missing') },
    ]);
    expect(licence({ symbols })).toEqual([]);
    const gplOnly = new Map([...symbols, ['_printk', exported(crcs._printk, { gplOnly: true })]]);
    expect(licence({ symbols: gplOnly })).toMatchObject([{ severity: 'error' }]);
  });

  it('say nothing of a signed module where signatures are wanted', () => {
    expect(findings({ signed: true }, { signatureEnforced: true, lockdown: 'integrity' })).toEqual([]);
  });

  it('accept symbols that the kernel loads without', () => {
    const parts = { symbols: [{ name: 'maybe', weak: true }, { name: 'vesper_probe_register' }] };
    expect(findings(parts, { symbols })).toEqual([]);
  });

  it('put errors first and say nothing more of another architecture', () => {
    const found = findings({ machine: 183, sections: [], symbols: [] }, { symbols: new Map() });
    expect(found.map(({ code }) => code)).toEqual(['ARCHITECTURE', 'DECLARATION']);
  });

  it('take CRCs for no difference where the kernel has no versions', () => {
    const plain = 'x SMP mod_unload ';
    const parts = { ...withInfo('vermagic', plain), crcs: { _printk: 77 }, sections: descriptorSections({}) };
    expect(findings(parts, { kernelRelease: 'x', vermagic: plain, symbols })).toEqual([]);
  });
});

describe('Module.symvers', () => {
  it('gives the symbols of a kernel', () => {
    const text =
      '0x00000001\tplain\tvmlinux\tEXPORT_SYMBOL\t\n0xffffffff\tours\tfs/ext4/ext4\tEXPORT_SYMBOL_GPL\tNS\nrubbish\n';
    expect(parseSymvers(text)).toEqual(
      new Map([
        ['plain', exported(1)],
        ['ours', exported(0xffffffff, { gplOnly: true, namespace: 'NS', module: 'fs/ext4/ext4' })],
      ]),
    );
  });
});

describe('the probes of this project', () => {
  it.each([...builtModules('signal'), ...builtModules('oom')])(
    '%s fits the kernel it was built for, and no other one',
    (path) => {
      const image = parseImage(readFileSync(path), path);
      const [release = ''] = image.vermagic.split(' ');
      const own = { ...guest, kernelRelease: release, vermagic: `${image.vermagic} ` };
      expect(checkImage(image, own)).toEqual([]);
      const layout = new Map(image.symbols.map(({ name, crc = 0 }) => [name, exported(crc + 1)]));
      expect(checkImage(image, { ...own, symbols: layout }).map(({ code }) => code)).toEqual([
        'SYMBOL_VERSION',
      ]);
    },
  );
});
