// SPDX-License-Identifier: Apache-2.0

import { globExpression } from '../sink/glob.ts';

/** Whether a guest is meant: by its name or UUID, `*` for any characters, `?` for one. */
export function matchesGuest(
  pattern: string,
  guest: { readonly name: string; readonly uuid: string },
): boolean {
  return globExpression(pattern).test(guest.name) || globExpression(pattern, 'i').test(guest.uuid);
}
