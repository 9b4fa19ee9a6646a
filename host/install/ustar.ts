// SPDX-License-Identifier: Apache-2.0

import type { InstalledFile } from './dkms-tree.ts';

const block = 512;

/** The files as an archive that every tar reads (POSIX.1-1988 ustar), to be unpacked in `/`; modes 0644, owner root. */
export function ustarArchive(files: readonly InstalledFile[]): Uint8Array {
  const parts = files.flatMap(({ path, content }) => [
    header(path.replace(/^\/+/, ''), content.length),
    content,
    new Uint8Array((block - (content.length % block)) % block),
  ]);
  return Buffer.concat([...parts, new Uint8Array(2 * block)]);
}

function header(name: string, bytes: number): Uint8Array {
  if (Buffer.byteLength(name) > 100) throw new RangeError(`${name} is too long for an archive`);
  const head = Buffer.alloc(block);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, '0')}\0`;
  head.write(name, 0);
  head.write(octal(0o644, 7), 100);
  head.write(octal(0, 7), 108);
  head.write(octal(0, 7), 116);
  head.write(octal(bytes, 11), 124);
  head.write(octal(Math.floor(Date.now() / 1000), 11), 136);
  // The checksum is taken with blanks in its own place.
  head.write('        ', 148);
  head.write('0', 156);
  head.write('ustar\0' + '00', 257);
  const sum = head.reduce((total, byte) => total + byte, 0);
  head.write(octal(sum, 6), 148);
  return head;
}
