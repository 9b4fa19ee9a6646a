// SPDX-License-Identifier: Apache-2.0

/**
 * CRC-32C (Castagnoli), as the kernel's `crc32c()` with its usual inversions: RFC 3720, appendix B.4. Node's zlib has
 * only the other polynomial.
 */

const reflectedPolynomial = 0x82f63b78;

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ reflectedPolynomial : crc >>> 1;
  return crc;
});

/**
 * CRC-32C of `bytes[start … end)` as an unsigned number. To go on where a former call ended, give its result as `before`:
 * `crc32c(b, 0, b.length, crc32c(a)) === crc32c(a + b)`.
 */
export function crc32c(bytes: Uint8Array, start = 0, end = bytes.length, before = 0): number {
  let crc = ~before;
  for (let i = start; i < end; i += 1) {
    crc = (table[(crc ^ (bytes[i] as number)) & 0xff] as number) ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}
