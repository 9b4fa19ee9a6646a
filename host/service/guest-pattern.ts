// SPDX-License-Identifier: Apache-2.0

/** Whether a guest is meant: by its name or UUID, `*` for any characters, `?` for one. */
export function matchesGuest(
  pattern: string,
  guest: { readonly name: string; readonly uuid: string },
): boolean {
  const expression = pattern
    .replaceAll(/[\\^$.|+()[\]{}]/g, '\\$&')
    .replaceAll(/\*+/g, '.*')
    .replaceAll('?', '.');
  return (
    new RegExp(`^${expression}$`, 's').test(guest.name) || new RegExp(`^${expression}$`, 'i').test(guest.uuid)
  );
}
