// SPDX-License-Identifier: Apache-2.0

/**
 * Would this image load into that guest? Asked before a push, so that people read a sentence instead of an errno.
 * Source for what the kernel decides: kernel/module/main.c and version.c (6.1, 6.12).
 */

import { limits } from '../wire/message.ts';
import { checkLicence, checkSymbols } from './check-symbols.ts';
import type { ProbeImage } from './declaration.ts';
import { error, type Finding, type GuestKernel, rebuild, subject, warning } from './finding.ts';

/** Errors first. Without a guest, only what the image alone tells. */
export function checkImage(image: ProbeImage, guest?: GuestKernel): readonly Finding[] {
  const findings = [
    ...checkSize(image, guest),
    ...checkDeclaration(image),
    ...checkLicence(image, guest),
    ...(guest === undefined ? [] : checkGuest(image, guest)),
    ...checkDepends(image),
  ];
  return findings.sort((a, b) => Number(a.severity === 'warning') - Number(b.severity === 'warning'));
}

function checkGuest(image: ProbeImage, guest: GuestKernel): readonly Finding[] {
  // With another architecture nothing else that could be said makes sense.
  if (image.architecture !== guest.machine) {
    return [
      error(
        'ARCHITECTURE',
        `${subject(image)} is built for ${image.architecture}, guest ${guest.name} is ${guest.machine}; ${rebuild(image, guest)}.`,
      ),
    ];
  }
  return [...checkVermagic(image, guest), ...checkSymbols(image, guest), ...checkPolicy(image, guest)];
}

function checkSize(image: ProbeImage, guest: GuestKernel | undefined): readonly Finding[] {
  const most = guest?.imageMax ?? limits.IMAGE_MAX.value;
  if (image.bytes.length <= most) return [];
  const taker = guest === undefined ? 'a frontend' : `guest ${guest.name}`;
  return [
    error(
      'SIZE',
      `${subject(image)} has ${image.bytes.length} bytes, ${taker} takes at most ${most}; remove debug information with strip -g.`,
    ),
  ];
}

/** Text after the first blank has to be the same; the release in front of it only where there are no symbol versions. */
function checkVermagic(image: ProbeImage, guest: GuestKernel): readonly Finding[] {
  const [builtFor = '', ...flags] = image.vermagic.split(/\s+/).filter(Boolean);
  const [, ...guestFlags] = guest.vermagic.split(/\s+/).filter(Boolean);
  if (image.vermagic === '') {
    return [
      error('VERMAGIC', `${subject(image)} has no vermagic, which kernels refuse; ${rebuild(image, guest)}.`),
    ];
  }
  if (flags.join(' ') !== guestFlags.join(' ')) {
    return [
      error(
        'VERMAGIC',
        `${subject(image)} is built for a kernel with other features (${difference(flags, guestFlags)}) than that of guest ${guest.name}; ${rebuild(image, guest)}.`,
      ),
    ];
  }
  const versioned = image.symbols.some(({ crc }) => crc !== undefined);
  if (guestFlags.includes('modversions') && !versioned) {
    return [
      error(
        'SYMBOL_VERSION',
        `${subject(image)} has no symbol versions, which guest ${guest.name} insists on; build it with the Module.symvers of kernel ${guest.kernelRelease}.`,
      ),
    ];
  }
  if (builtFor === guest.kernelRelease) return [];
  if (!versioned) {
    return [
      error(
        'RELEASE',
        `${subject(image)} is built for kernel ${builtFor}, guest ${guest.name} runs ${guest.kernelRelease}; ${rebuild(image, guest)}.`,
      ),
    ];
  }
  if (guest.symbols !== undefined) return [];
  return [
    warning(
      'RELEASE',
      `${subject(image)} is built for kernel ${builtFor}, guest ${guest.name} runs ${guest.kernelRelease}: it loads only if their symbol versions agree; ${rebuild(image, guest)} to be sure.`,
    ),
  ];
}

function checkPolicy(image: ProbeImage, guest: GuestKernel): readonly Finding[] {
  if (guest.modulesDisabled === true) {
    return [
      error(
        'MODULES_DISABLED',
        `Guest ${guest.name} has module loading disabled (kernel.modules_disabled=1), which only a reboot undoes.`,
      ),
    ];
  }
  const locked = guest.lockdown !== undefined && guest.lockdown !== 'none';
  if (image.signed || !(locked || guest.signatureEnforced === true)) return [];
  const why = locked ? `is locked down (${guest.lockdown})` : 'loads signed modules only';
  return [
    error(
      'SIGNATURE',
      `Guest ${guest.name} ${why} and ${subject(image)} is not signed; sign it with a key the guest's kernel trusts.`,
    ),
  ];
}

function checkDeclaration(image: ProbeImage): readonly Finding[] {
  const needs = (name: string) => image.symbols.some((symbol) => symbol.name === name);
  if (image.declaration === undefined) {
    const what = needs('vesper_reserve')
      ? 'what it writes cannot be decoded'
      : 'it loads and unloads, and no more';
    return [
      warning(
        'DECLARATION',
        `${subject(image)} declares no events: ${what}; describe them with <vesper/probe.h>.`,
      ),
    ];
  }
  if (needs('vesper_probe_register')) return [];
  return [
    warning(
      'DECLARATION',
      `${subject(image)} never calls vesper_probe_register(), so none of its probe points will be armed.`,
    ),
  ];
}

function checkDepends(image: ProbeImage): readonly Finding[] {
  const others = image.depends.filter((name) => name !== 'vesper');
  if (others.length === 0) return [];
  return [
    warning(
      'DEPENDS',
      `${subject(image)} needs ${others.join(', ')} to be loaded in the guest already; VESPER loads no other modules.`,
    ),
  ];
}

function difference(image: readonly string[], guest: readonly string[]): string {
  const without = (a: readonly string[], b: readonly string[]) =>
    a.filter((flag) => !b.includes(flag)).join(', ');
  const parts = [
    [without(image, guest), 'only the probe has'],
    [without(guest, image), 'only the guest has'],
  ].flatMap(([flags, who]) => (flags === '' ? [] : [`${who} ${flags}`]));
  return parts.join('; ') || `"${image.join(' ')}" instead of "${guest.join(' ')}"`;
}
