// SPDX-License-Identifier: Apache-2.0

/** A pattern in which `*` stands for any characters and `?` for one; the whole text has to match. */
export function globExpression(pattern: string, flags = 's'): RegExp {
  const expression = pattern
    .replaceAll(/[\\^$.|+()[\]{}]/g, '\\$&')
    .replaceAll(/\*+/g, '.*')
    .replaceAll('?', '.');
  return new RegExp(`^${expression}$`, flags);
}

export const isGlob = (pattern: string): boolean => /[*?]/.test(pattern);
