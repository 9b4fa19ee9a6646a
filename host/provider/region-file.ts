// SPDX-License-Identifier: Apache-2.0

/**
 * The file behind a shared region: made and stamped by the provider, mapped by host and guest. Beside it, by its name, lie the
 * pipe of its doorbell and, for a moment, the socket at which a VMM gets both.
 */

import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { messageOf, VesperError } from '../error.ts';
import { layoutVersion, pageBytes, regionHeader, regionMagic } from '../wire/region.ts';
import { decode, encode } from '../wire/struct.ts';
import type { ProvidedRegion } from './provider.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR } = constants;
const regionBytesMin = 16 * pageBytes;

/**
 * What a PCI Express root port has to reserve for a region: the device needs an address that is a multiple of its size, and
 * firmware aligns what it reserves to 2 MiB only.
 */
export const reserveFor = (bytes: number): number => 2 * bytes;

/** What firmware and kernel reserve behind a PCI Express root port when nothing is said: a region of that size just fits. */
export const reservedBytes = 2 << 20;

/**
 * Make a region of `bytes`, stamped, mode 0600. `prefix` is a path; something random is appended. Throws USAGE for an
 * impossible size, HOST where the file cannot be made.
 */
export async function createRegionFile(prefix: string, bytes: number): Promise<ProvidedRegion> {
  // QEMU ends with a failed assertion, and the guest with it, when a PCI BAR is no power of two.
  if (!Number.isSafeInteger(Math.log2(bytes)) || bytes < regionBytesMin) {
    throw new VesperError(
      'USAGE',
      `a region of ${bytes} bytes: it has to be a power of two of at least ${regionBytesMin}`,
    );
  }
  const path = `${prefix}-${randomBytes(4).toString('hex')}`;
  const token = tokenOf(path);
  try {
    const file = await open(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR, 0o600);
    try {
      await fill(file, bytes);
      const header = {
        magic: regionMagic,
        layout_version: layoutVersion,
        region_bytes: BigInt(bytes),
        token,
      };
      await file.write(encode(regionHeader, header), 0, regionHeader.size, 0);
    } finally {
      await file.close();
    }
  } catch (error) {
    await rm(path, { force: true });
    const why =
      (error as NodeJS.ErrnoException).code === 'ENOSPC' ? `no room for ${bytes} bytes` : String(error);
    const message = `cannot make the region ${path}: ${why}: free some, or choose another folder for regions`;
    throw new VesperError('HOST', message, { cause: error, data: { path, bytes } });
  }
  return { path, bytes, token };
}

/**
 * Written, not truncated to its size: a sparse file in a full tmpfs would kill QEMU with SIGBUS at the first touch.
 */
async function fill(file: FileHandle, bytes: number): Promise<void> {
  const zeros = new Uint8Array(Math.min(bytes, 1 << 20));
  for (let at = 0; at < bytes; ) {
    // A nearly full tmpfs takes a part without an error; the next write tells.
    const { bytesWritten } = await file.write(zeros, 0, Math.min(zeros.length, bytes - at), at);
    at += bytesWritten;
  }
}

/**
 * Which region this is. It follows from the file's name, which the guest cannot change: what the guest made of the stamp is
 * told even by a service that did not make the region.
 */
const tokenOf = (path: string): Uint8Array =>
  Uint8Array.from(createHash('sha256').update(basename(path)).digest().subarray(0, 16));

/**
 * The region that is in a file of a former service; undefined where it is not readable or its stamp is not as it was made: a
 * frontend would not find it, or not by this token.
 */
export async function readRegionFile(path: string): Promise<ProvidedRegion | undefined> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, O_RDONLY | O_NOFOLLOW);
    const { size } = await file.stat();
    const raw = new Uint8Array(regionHeader.size);
    const { bytesRead } = await file.read(raw, 0, raw.length, 0);
    if (bytesRead < raw.length) return undefined;
    const header = decode(regionHeader, raw);
    const ours = header.magic === regionMagic && header.layout_version === layoutVersion;
    const token = tokenOf(path);
    return ours && header.region_bytes === BigInt(size) && Buffer.compare(header.token, token) === 0
      ? { path, bytes: size, token }
      : undefined;
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  } finally {
    await file?.close();
  }
}

/**
 * Writes the stamp of a region anew that the guest overwrote: its frontend still knows the region by the token, and to plug
 * another one the guest would have to take part. Undefined where the file is none of ours or not writable.
 */
export async function restampRegionFile(path: string): Promise<ProvidedRegion | undefined> {
  if (!/-[0-9a-f]{8}$/.test(path)) return undefined;
  let file: FileHandle | undefined;
  try {
    file = await open(path, O_RDWR | O_NOFOLLOW);
    const { size: bytes } = await file.stat();
    if (!Number.isSafeInteger(Math.log2(bytes)) || bytes < regionBytesMin) return undefined;
    const token = tokenOf(path);
    const header = { magic: regionMagic, layout_version: layoutVersion, region_bytes: BigInt(bytes), token };
    // Behind it is the guest's part: its rings may be in use.
    await file.write(encode(regionHeader, header), 0, regionHeader.offsets.epoch, 0);
    return { path, bytes, token, restamped: true };
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  } finally {
    await file?.close();
  }
}

/**
 * Makes a region's file that of the user QEMU runs as, for nobody else to read. By a descriptor: that user may put a link in the place
 * of a file that is his. Throws PROVIDER where this service may not.
 */
export async function giveRegionFile(path: string, user: { uid: number; gid: number }): Promise<void> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, O_RDWR | O_NOFOLLOW);
    const status = await file.stat();
    if (!status.isFile() || status.nlink !== 1) throw new Error('it is not a file of one name');
    if (status.uid !== user.uid) await file.chown(user.uid, user.gid);
    await file.chmod(0o600);
  } catch (error) {
    const message = `${path} cannot be given to the user ${user.uid} that QEMU runs as: run the service as root or as that user (${messageOf(error)})`;
    throw new VesperError('PROVIDER', message, { cause: error, data: { path, uid: user.uid } });
  } finally {
    await file?.close();
  }
}

export const doorbellOf = (path: string) => `${path}.doorbell`;
export const serverOf = (path: string) => `${path}.server`;
/** Of a file that belongs to a region: the region's. */
export const regionOf = (path: string) => path.replace(/\.(doorbell|server)$/, '');

/** Remove a region with all that belongs to it. */
export async function removeRegion(path: string): Promise<void> {
  await Promise.all([path, doorbellOf(path), serverOf(path)].map((file) => rm(file, { force: true })));
}

/** Remove what former regions of the same prefix left behind. */
export async function removeRegionFiles(prefix: string): Promise<void> {
  await Promise.all((await filesOf(prefix)).map((path) => rm(path, { force: true })));
}

/** The region of that prefix that a former service left, or a new one. Throws as `createRegionFile`. */
export async function keptRegionFile(prefix: string, bytes: number): Promise<ProvidedRegion> {
  for (const path of await filesOf(prefix)) {
    const region = await readRegionFile(path);
    if (region?.bytes === bytes) return region;
  }
  await removeRegionFiles(prefix);
  return createRegionFile(prefix, bytes);
}

async function filesOf(prefix: string): Promise<string[]> {
  const folder = dirname(prefix);
  const names = await readdir(folder).catch(() => []);
  const ours = `${basename(prefix)}-`;
  return names
    .filter((name) => name.startsWith(ours) && /^[0-9a-f]{8}$/.test(regionOf(name).slice(ours.length)))
    .map((name) => join(folder, name));
}
