// SPDX-License-Identifier: Apache-2.0

/** The part of the compatibility check that is about symbols: are they there, in the right version, may the image use them. */

import type { ProbeImage } from './declaration.ts';
import { error, type Finding, type GuestKernel, rebuild, subject, warning } from './finding.ts';

/** Exported by the frontend, for the GPL only. Which of them it has, the guest says: the host need not know its version. */
export const isFrontendSymbol = (name: string): boolean => /^_*vesper_/.test(name);

/** include/linux/license.h */
const gplCompatible: ReadonlySet<string> = new Set([
  'GPL',
  'GPL v2',
  'GPL and additional rights',
  'Dual BSD/GPL',
  'Dual MIT/GPL',
  'Dual MPL/GPL',
]);

export const isGplCompatible = (licence: string): boolean => gplCompatible.has(licence);

/** A module under another licence does not see symbols exported for the GPL only, and those of the frontend are. */
export function checkLicence(image: ProbeImage, guest: GuestKernel | undefined): readonly Finding[] {
  if (isGplCompatible(image.license)) return [];
  const licence = image.license === '' ? 'declares no licence' : `has the licence "${image.license}"`;
  const hidden = image.symbols
    .filter(({ name }) => isFrontendSymbol(name) || guest?.symbols?.get(name)?.gplOnly === true)
    .map(({ name }) => name);
  if (hidden.length > 0) {
    return [
      error(
        'LICENCE',
        `${subject(image)} ${licence}, but ${listed(hidden)} can be used under the GPL only; set MODULE_LICENSE("GPL") if you may.`,
      ),
    ];
  }
  if (guest?.symbols !== undefined) return [];
  return [
    warning(
      'LICENCE',
      `${subject(image)} ${licence}: symbols that are exported for the GPL only will seem to be missing.`,
    ),
  ];
}

export function checkSymbols(image: ProbeImage, guest: GuestKernel): readonly Finding[] {
  return guest.symbols === undefined ? [] : checkKnown(image, guest, guest.symbols);
}

function checkKnown(
  image: ProbeImage,
  guest: GuestKernel,
  symbols: NonNullable<GuestKernel['symbols']>,
): readonly Finding[] {
  const findings: Finding[] = [];
  const missing = missingSymbols(image, guest);
  if (missing.length > 0) {
    findings.push(
      error(
        'MISSING_SYMBOL',
        `${subject(image)} needs ${listed(missing)}, which kernel ${guest.kernelRelease} of guest ${guest.name} does not export; ${rebuild(image, guest)}, or change its source for that kernel.`,
      ),
    );
  }
  const other = mismatchedSymbols(image, guest);
  if (other.length > 0) {
    findings.push(
      error(
        'SYMBOL_VERSION',
        `${subject(image)} is built against other versions of ${listed(other)} than kernel ${guest.kernelRelease} of guest ${guest.name} has; ${rebuild(image, guest)}.`,
      ),
    );
  }
  const namespaces = image.symbols.map(({ name }) => symbols.get(name)?.namespace ?? '').filter(Boolean);
  const forgotten = [...new Set(namespaces)].filter((namespace) => !image.namespaces.includes(namespace));
  if (forgotten.length > 0) {
    findings.push(
      error(
        'NAMESPACE',
        `${subject(image)} uses symbols of namespace ${listed(forgotten)} without MODULE_IMPORT_NS; add it to its source.`,
      ),
    );
  }
  return findings;
}

/** Empty where the guest's symbols are not known. Those of the frontend are not the kernel's. */
export function missingSymbols(image: ProbeImage, guest: GuestKernel): readonly string[] {
  const { symbols } = guest;
  if (symbols === undefined) return [];
  return image.symbols
    .filter(({ name, weak }) => !weak && !isFrontendSymbol(name) && !symbols.has(name))
    .map(({ name }) => name);
}

/** Symbols whose CRC is known of both sides and differs. Empty where the guest's symbols are not known. */
export function mismatchedSymbols(image: ProbeImage, guest: GuestKernel): readonly string[] {
  // A kernel without symbol versions has zeros in its Module.symvers, and compares none.
  if (guest.symbols === undefined || !guest.vermagic.includes('modversions')) return [];
  const { symbols } = guest;
  return image.symbols
    .filter(({ name, crc }) => {
      const has = symbols.get(name)?.crc;
      return crc !== undefined && has !== undefined && crc !== has;
    })
    .map(({ name }) => name);
}

const listedMax = 4;

export function listed(names: readonly string[]): string {
  const shown = names.slice(0, listedMax).join(', ');
  return names.length > listedMax ? `${shown} and ${names.length - listedMax} more` : shown;
}
