// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c } from '../../host/channel/crc32c.ts';

/** The definition, bit by bit: division of the message by the polynomial. */
function bitwise(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe('crc32c', () => {
  it.each([
    ['nothing', new Uint8Array(0), 0x00000000],
    ['the usual check value', new TextEncoder().encode('123456789'), 0xe3069283],
    ['RFC 3720 B.4: 32 bytes of zeroes', new Uint8Array(32), 0x8a9136aa],
    ['RFC 3720 B.4: 32 bytes of ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['RFC 3720 B.4: 0 … 31', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['RFC 3720 B.4: 31 … 0', Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
  ])('%s', (_, bytes, expected) => {
    expect(crc32c(bytes)).toBe(expected);
  });

  it('agrees with the definition', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => crc32c(bytes) === bitwise(bytes)));
  });

  it('of a part, and of parts one after the other', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(300), (bytes, at) => {
        const cut = Math.min(at, bytes.length);
        expect(crc32c(bytes, cut)).toBe(crc32c(bytes.subarray(cut)));
        expect(crc32c(bytes, cut, bytes.length, crc32c(bytes, 0, cut))).toBe(crc32c(bytes));
      }),
    );
  });
});
