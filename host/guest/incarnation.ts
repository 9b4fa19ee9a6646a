// SPDX-License-Identifier: Apache-2.0

/** One boot of one guest: stale events are recognised by it. */
export interface Incarnation {
  /** As the hypervisor names it. */
  readonly guest: string;
  readonly uuid: string;
  /** Lower-case hexadecimal, 32 digits; made anew at each boot. */
  readonly bootId: string;
}

export const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
