// SPDX-License-Identifier: Apache-2.0

/** What the compatibility check knows of a guest, and what it finds. */

import { type ProbeImage, probeName } from './declaration.ts';
import type { KernelSymbols } from './symvers.ts';

/** A guest's kernel, as far as the host knows it. What is undefined is not known, and then not judged. */
export interface GuestKernel {
  /** Name of the guest. */
  readonly name: string;
  readonly kernelRelease: string;
  readonly vermagic: string;
  /** As `uname -m`. */
  readonly machine: string;
  /** Largest image its frontend takes, in bytes. */
  readonly imageMax: number;
  readonly symbols?: KernelSymbols | undefined;
  readonly lockdown?: 'none' | 'integrity' | 'confidentiality' | undefined;
  readonly signatureEnforced?: boolean | undefined;
  readonly modulesDisabled?: boolean | undefined;
}

export type FindingCode =
  | 'ARCHITECTURE'
  | 'SIZE'
  | 'VERMAGIC'
  | 'RELEASE'
  | 'SYMBOL_VERSION'
  | 'MISSING_SYMBOL'
  | 'NAMESPACE'
  | 'LICENCE'
  | 'DEPENDS'
  | 'SIGNATURE'
  | 'MODULES_DISABLED'
  | 'DECLARATION';

export interface Finding {
  /** `error`: it will not load. `warning`: it may not load, or not do what one expects. */
  readonly severity: 'error' | 'warning';
  readonly code: FindingCode;
  /** What is wrong and what to do. */
  readonly sentence: string;
}

export const subject = (image: ProbeImage): string => `Probe ${probeName(image)}`;

/** The command that mends most of it. */
export const rebuild = (image: ProbeImage, guest: GuestKernel): string =>
  `build it with: vesper build ${probeName(image)} --kernel ${guest.kernelRelease}`;

export const error = (code: FindingCode, sentence: string): Finding => ({
  severity: 'error',
  code,
  sentence,
});
export const warning = (code: FindingCode, sentence: string): Finding => ({
  severity: 'warning',
  code,
  sentence,
});
