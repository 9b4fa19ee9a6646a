// SPDX-License-Identifier: Apache-2.0

/** A file → a ProbeImage. The kind is read from the file; nothing above this knows which kinds there are. */

import { createHash } from 'node:crypto';
import { constants, open } from 'node:fs/promises';
import { basename } from 'node:path';
import { VesperError } from '../error.ts';
import type { ProbeImage } from './declaration.ts';
import { readDeclaration } from './descriptors.ts';
import { ElfFile } from './elf.ts';
import { readModuleInfo } from './modinfo.ts';

/** Nothing that is larger is read into memory; what a guest takes is far less (check.ts). */
const fileMax = 64 << 20;

type Contents = Omit<ProbeImage, 'sha256' | 'bytes'>;

/** Reads an image. `file` is for messages. Throws BAD_IMAGE. */
export function parseImage(bytes: Uint8Array, file: string): ProbeImage {
  const elf = new ElfFile(bytes, file);
  const contents = elf.machine === 'bpf' ? readBpf(elf) : readNative(elf);
  return { ...contents, sha256: createHash('sha256').update(bytes).digest('hex'), bytes };
}

/** Reads an image from its file. Throws NOT_FOUND, HOST or BAD_IMAGE. */
export async function readImage(path: string): Promise<ProbeImage> {
  return parseImage(await readBounded(path), basename(path));
}

function readNative(elf: ElfFile): Contents {
  const info = readModuleInfo(elf);
  return { kind: 'native', architecture: elf.machine, declaration: readDeclaration(elf), ...info };
}

function readBpf(elf: ElfFile): never {
  throw elf.bad('it is a BPF object, which this version does not load; build the probe as a kernel module');
}

/** The file as it is now: a file that grows meanwhile is cut, one that shrinks is taken as it was found. */
async function readBounded(path: string): Promise<Uint8Array> {
  try {
    // Non-blocking: opening a FIFO must not wait for a writer.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const found = await file.stat();
    if (!found.isFile()) {
      const what = found.isDirectory() ? 'a folder; name the .ko file in it' : 'no regular file';
      throw new VesperError('BAD_IMAGE', `${path} is ${what}.`);
    }
    const { size } = found;
    if (size > fileMax) {
      throw new VesperError('BAD_IMAGE', `${path} has ${size} bytes; a probe image has at most ${fileMax}.`);
    }
    const bytes = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const { bytesRead } = await file.read(bytes, filled, size - filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return bytes.subarray(0, filled);
  } catch (cause) {
    throw fileError(path, cause);
  }
}

function fileError(path: string, cause: unknown): unknown {
  if (cause instanceof VesperError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return new VesperError('NOT_FOUND', `There is no file ${path}.`, { cause });
  if (code === 'EISDIR')
    return new VesperError('BAD_IMAGE', `${path} is a folder; name the .ko file in it.`, { cause });
  return new VesperError('HOST', `${path} cannot be read: ${message}`, { cause });
}
