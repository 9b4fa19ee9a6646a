// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';
import { errnoName } from '../../host/probe/errno.ts';
import type { GuestKernel } from '../../host/probe/finding.ts';
import { parseImage } from '../../host/probe/image.ts';
import { explainLoadError, type LoadDetails } from '../../host/probe/load-error.ts';
import { loadStages } from '../../host/wire/message.ts';
import { crcs, type ModuleParts, modinfo, moduleImage } from '../fixtures/module-image.ts';

const guest: GuestKernel = {
  name: 'web1',
  kernelRelease: '6.1.0-56-cloud-amd64',
  vermagic: '6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions ',
  machine: 'x86_64',
  imageMax: 4 << 20,
};
const initModule = loadStages.INIT_MODULE.value;
const symbol = (crc: number) => ({ crc, gplOnly: false, namespace: '', module: 'vmlinux' });
const ownSymbols = new Map(Object.entries(crcs).map(([name, crc]) => [name, symbol(crc)]));
const otherRelease = {
  modinfo: [...modinfo.slice(0, -1), 'vermagic=6.1.0-50-x SMP preempt mod_unload modversions '],
};

interface Case {
  readonly parts?: ModuleParts;
  readonly known?: Partial<GuestKernel>;
  readonly details?: LoadDetails;
}

const explain = (
  error: number,
  { parts = {}, known = {}, details = {} }: Case = {},
  stage: number = initModule,
) =>
  explainLoadError(
    error,
    stage,
    parseImage(moduleImage(parts), 'fixture.ko'),
    { ...guest, ...known },
    details,
  );

describe('a load that failed', () => {
  it.each<[string, number, Case, RegExp]>([
    ['a damaged image', -8, {}, /does not take the file as a module \(ENOEXEC\): it is damaged or cut off/],
    [
      'another architecture',
      -8,
      { parts: { machine: 183 } },
      /\(ENOEXEC\)\. Probe fixture is built for aarch64, guest web1 is x86_64/,
    ],
    [
      'another build',
      -8,
      { parts: otherRelease },
      /built for kernel 6\.1\.0-50-x, the guest runs another build, 6\.1\.0-56-cloud-amd64 \(ENOEXEC\); build it with: vesper build fixture/,
    ],
    [
      'features of another kernel',
      -8,
      { known: { vermagic: 'x SMP' } },
      /\(ENOEXEC\)\. .* other features \(only the probe has preempt, mod_unload, modversions\)/,
    ],
    [
      'known other versions',
      -22,
      { known: { symbols: new Map([...ownSymbols, ['_printk', symbol(1)]]) } },
      /symbol versions do not fit \(EINVAL\)\. .*_printk/,
    ],
    [
      'a parameter, versions agree',
      -22,
      { known: { symbols: ownSymbols }, details: { args: 'threshold=x' } },
      /: the probe does not take its parameters "threshold=x"; "vesper probes fixture" lists what it takes \(EINVAL\)\.$/,
    ],
    [
      'a parameter, same release',
      -22,
      { details: { args: 'threshold=x' } },
      /parameters "threshold=x".* If the guest's kernel is a build of its own, build it/,
    ],
    [
      'parameter or versions, another release',
      -22,
      { parts: otherRelease, details: { args: 'a=b' } },
      /either it is built against other symbol versions .*; or the probe does not take its parameters "a=b"/,
    ],
    [
      'versions, another release',
      -22,
      { parts: otherRelease },
      /: it is built against other symbol versions \(for kernel 6\.1\.0-50-x/,
    ],
    [
      'init function, versions agree',
      -22,
      { known: { symbols: ownSymbols } },
      /its init function failed, invalid argument \(EINVAL\)/,
    ],
    [
      'a known missing symbol',
      -2,
      { known: { symbols: new Map([['module_layout', symbol(1)]]) } },
      /does not export _printk \(ENOENT\)/,
    ],
    [
      'a missing symbol',
      -2,
      {},
      /does not export a symbol it needs \(ENOENT\): one of _printk, vesper_probe_register, which the kernel log/,
    ],
    [
      'a licence',
      -2,
      { parts: { modinfo: ['license=Proprietary', 'vermagic=x'] } },
      /licence "Proprietary" keeps symbols/,
    ],
    [
      'lockdown or modules_disabled',
      -1,
      {},
      /either the guest is locked down .* or it has module loading disabled/,
    ],
    ['lockdown', -1, { known: { lockdown: 'integrity' } }, /Guest web1 is locked down \(integrity\)/],
    [
      'modules_disabled',
      -1,
      { known: { lockdown: 'none' } },
      /: the guest has module loading disabled \(kernel\.modules_disabled=1, until its next reboot\) \(EPERM\)/,
    ],
    [
      'already loaded',
      -17,
      {},
      /a module fixture is loaded already; detach it, or run "rmmod fixture" in the guest/,
    ],
    ['being unloaded', -16, {}, /is being loaded or unloaded/],
    ['enforced signatures', -129, {}, /the kernel loads signed modules only \(EKEYREJECTED\); sign it/],
    [
      'a foreign signature',
      -129,
      { parts: { signed: true } },
      /does not accept its signature \(EKEYREJECTED\)/,
    ],
    ['no memory', -12, {}, /no memory for it \(ENOMEM\)/],
    [
      'a long parameter',
      -28,
      { details: { args: 'comm=xxx' } },
      /parameters "comm=xxx" is too long \(ENOSPC\)/,
    ],
    ['a number out of range', -34, { details: { args: 'x=9' } }, /"x=9" is out of range \(ERANGE\)/],
    [
      'its init function',
      -19,
      {},
      /its init function failed, no such device \(ENODEV\); see the kernel log of the guest\. Its required probe points are do_exit/,
    ],
    ['an errno without a name', -999, {}, /its init function failed, errno 999/],
    [
      'a required point',
      -2,
      { details: { points: [{ name: 'do_exit', error: 'ENOENT' }] } },
      /required probe point do_exit cannot be armed: the guest's kernel has no such function \(ENOENT\)/,
    ],
    [
      'a point that its init function insists on',
      -2,
      {
        details: {
          points: [
            { name: 'do_fork', error: 'ENOENT' },
            { name: 'do_exit', error: '' },
          ],
        },
      },
      /its init function failed, no such entry \(ENOENT\); .* With that error it could not arm do_fork\./,
    ],
    [
      'its init function, after it registered',
      -2,
      { details: { points: [{ name: 'do_exit', error: '' }] } },
      /its init function failed, no such entry \(ENOENT\)/,
    ],
  ])('because of %s', (_name, error, knowledge, sentence) => {
    const text = explain(error, knowledge);
    expect(text).toMatch(/^Probe fixture was not loaded into guest web1: /);
    expect(text).toMatch(sentence);
    expect(text).toMatch(/[^.]\.$/);
  });

  it.each([
    [loadStages.TRANSFER.value, -74, 'did not arrive whole, bad message (EBADMSG); attach it again'],
    [loadStages.TRANSFER.value, -16, 'busy with another push'],
    [0, -16, 'busy with another push'],
    [0, -27, 'larger than the 4194304 the frontend takes'],
    [0, -95, 'does not load native images'],
    [0, -5, 'the frontend refused it, input/output error (EIO)'],
  ])('in stage %d with %d', (stage, error, sentence) => {
    expect(explain(error, {}, stage)).toContain(sentence);
  });
});

describe('errnos', () => {
  it('have the names of the guest, signed or not', () => {
    expect([errnoName(-2), errnoName(129), errnoName(-4095)]).toEqual([
      'ENOENT',
      'EKEYREJECTED',
      'errno 4095',
    ]);
  });
});
