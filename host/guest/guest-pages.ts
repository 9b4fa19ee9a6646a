// SPDX-License-Identifier: Apache-2.0

/**
 * A region in pages of the guest: the frontend says where they lie, and is believed only where what it wrote there is found in the
 * machine's RAM file. The list is hostile input: whatever it says, nothing outside the guest's own RAM is mapped.
 */

import { randomBytes } from 'node:crypto';
import { readSync } from 'node:fs';
import type { Piece } from '../channel/frame.ts';
import { VesperError } from '../error.ts';
import { errnoName } from '../probe/errno.ts';
import type { Machine, ProvidedRegion, SharedRam } from '../provider/provider.ts';
import type { FilePiece } from '../relay/native.ts';
import { limits, type PayloadOf } from '../wire/message.ts';
import { layoutVersion, pageBytes, pieceCheck, regionHeader, regionMagic } from '../wire/region.ts';
import { decode, type Fields, type Struct } from '../wire/struct.ts';
import type { ControlLink } from './control-link.ts';
import { hexOf } from './incarnation.ts';
import { readBeginning } from './region-header.ts';

/** A guest short of memory looks for contiguous pages for a while. */
const pagesTimeLimitMs = 8_000;

/** A region, and how to let go of the RAM it is in. */
export interface PagesRegion {
  readonly region: ProvidedRegion;
  close(): void;
}

/** Throws PROVIDER where the machine's RAM is not shared, RELAY or PROTOCOL where the guest gives no usable pages. */
export async function pagesRegion(link: ControlLink, machine: Machine, bytes: number): Promise<PagesRegion> {
  const ram = await machine.sharedRam();
  try {
    const token = randomBytes(16);
    const { payload, tail } = await link.request('pages_request', { token, bytes: BigInt(bytes) }, 'pages', {
      timeLimitMs: pagesTimeLimitMs,
    });
    if (payload.error !== 0) {
      throw new VesperError(
        'RELAY',
        `${machine.name}: the frontend has no ${bytes} bytes of memory for a region: ${errnoName(payload.error)}`,
        { data: { guest: machine.name, errno: payload.error } },
      );
    }
    const region = regionIn(ram, machine.name, payload, tail);
    verify(region, machine.name, Buffer.compare(payload.token, token) === 0);
    return { region, close: () => ram.close() };
  } catch (thrown) {
    ram.close();
    throw thrown;
  }
}

/** Tells the frontend that its pages are unmapped: it frees them. */
export async function freePages(link: ControlLink): Promise<void> {
  await link.request('pages_request', { bytes: 0n }, 'pages');
}

function regionIn(
  ram: SharedRam,
  guest: string,
  { bytes, token }: PayloadOf<'pages'>,
  list: readonly Piece[],
): ProvidedRegion {
  const refuse = (why: string): never => {
    throw new VesperError('PROTOCOL', `${guest}: the frontend's list of its pages is impossible: ${why}`, {
      data: { guest },
    });
  };
  if (bytes === 0n || bytes > BigInt(limits.PAGES_MAX.value)) refuse(`${bytes} bytes in all`);
  let total = 0n;
  const pieces = list.map((piece, index): FilePiece => {
    total += piece.bytes;
    const whole = piece.bytes > 0n && (piece.address | piece.bytes) % BigInt(pageBytes) === 0n;
    if (!whole || piece.bytes > bytes) return refuse(`piece ${index} is not of whole pages`);
    const offset = ram.offsetOf(piece.address, piece.bytes);
    return offset === undefined
      ? refuse(`piece ${index} does not lie in the RAM of the machine`)
      : { offset, bytes: Number(piece.bytes) };
  });
  if (total !== bytes) refuse(`pieces of ${total} bytes for a region of ${bytes}`);
  const sorted = [...pieces].sort((a, b) => a.offset - b.offset);
  for (const [i, { offset }] of sorted.entries()) {
    const before = sorted[i - 1];
    if (before !== undefined && offset < before.offset + before.bytes) refuse('pieces overlap');
  }
  return { path: ram.description, bytes: Number(bytes), token, ram: { fd: ram.fd, pieces } };
}

/**
 * What the guest wrote has to be where it says, or the map of its memory is not what we think, and the host would write somewhere
 * else. Of rings that are in use only the header is still there; the control blocks, all the host writes to, follow it.
 */
function verify(region: ProvidedRegion, guest: string, fresh: boolean): void {
  const wrong = (index: number): never => {
    throw new VesperError(
      'RELAY',
      `${guest}: what the frontend wrote into piece ${index} of its pages is not in the ${region.path}`,
      { data: { guest, piece: index } },
    );
  };
  const header = decode(regionHeader, readBeginning(region, regionHeader.size) ?? wrong(0));
  const ours = header.magic === regionMagic && header.layout_version === layoutVersion;
  const named = header.region_bytes === BigInt(region.bytes) && hexOf(header.token) === hexOf(region.token);
  if (!ours || !named) wrong(0);
  if (!fresh || region.ram === undefined) return;
  const { fd, pieces } = region.ram;
  for (const [index, { offset }] of pieces.entries()) {
    if (index === 0) continue;
    const check = readAt(pieceCheck, fd, offset);
    if (check?.index !== BigInt(index) || hexOf(check.token) !== hexOf(region.token)) wrong(index);
  }
}

function readAt<F extends Fields>(layout: Struct<F>, fd: number, offset: number) {
  const raw = new Uint8Array(layout.size);
  return readSync(fd, raw, 0, raw.length, offset) < raw.length ? undefined : decode(layout, raw);
}
