// SPDX-License-Identifier: Apache-2.0

/** A frontend that lies about its pages: nothing is mapped that is not the region it was asked for. */

import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { crc32c } from '../../host/channel/crc32c.ts';
import { encodeFrame, type Frame } from '../../host/channel/frame.ts';
import type { SharedRam } from '../../host/provider/provider.ts';
import { offsetIn } from '../../host/provider/qemu/ram.ts';
import { frameHeader, frameMagic, messages } from '../../host/wire/message.ts';
import { encode } from '../../host/wire/struct.ts';
import { leftovers, rigPrefix } from '../harness/rig.ts';
import { StandInGuest } from '../harness/stand-in-guest.ts';

afterAll(() => expect(leftovers()).toEqual([]));

/** A guest that asks to be read from elsewhere: its RAM is a file of 1 MiB below, and one above, a hole. */
describe('a frontend that lies about its pages', () => {
  const mib = 1n << 20n;
  const page = 4096n;
  const everything = { bytes: mib, error: 0 };

  async function liar(answer: (request: Frame<'pages_request'>) => Uint8Array): Promise<StandInGuest> {
    const folder = mkdtempSync(join(tmpdir(), rigPrefix));
    const path = join(folder, 'ram');
    writeFileSync(path, new Uint8Array(2 << 20));
    const ranges = [
      { address: 0n, bytes: mib, offset: 0n },
      { address: 4n << 30n, bytes: mib, offset: mib },
    ];
    const ram = (): SharedRam => {
      const fd = openSync(path, 'r+');
      return {
        description: 'RAM of a stand-in',
        fd,
        offsetOf: (address, bytes) => offsetIn(ranges, address, bytes),
        close: () => closeSync(fd),
      };
    };
    const guest = await StandInGuest.start(
      (request, usual) => (request.name === 'pages_request' ? answer(request) : usual({ features: 7n })),
      100,
      { relayBackend: 'guest-pages', ram },
    );
    onTestFinished(async () => {
      await guest.close();
      rmSync(folder, { recursive: true });
    });
    return guest;
  }

  test.each([
    [
      'overlapping',
      [
        { address: 0n, bytes: mib / 2n },
        { address: mib / 2n - page, bytes: mib / 2n },
      ],
      /pieces overlap/,
    ],
    [
      'the same twice',
      [
        { address: 0n, bytes: mib / 2n },
        { address: 0n, bytes: mib / 2n },
      ],
      /pieces overlap/,
    ],
    ['outside of RAM', [{ address: 8n << 30n, bytes: mib }], /piece 0 does not lie in the RAM/],
    ['in the hole', [{ address: 3n << 30n, bytes: mib }], /piece 0 does not lie in the RAM/],
    [
      'across the end of RAM',
      [{ address: (4n << 30n) + page, bytes: mib }],
      /piece 0 does not lie in the RAM/,
    ],
    [
      'at the end of all addresses',
      [{ address: 2n ** 64n - page, bytes: mib }],
      /piece 0 does not lie in the RAM/,
    ],
    ['not aligned', [{ address: 8n, bytes: mib }], /piece 0 is not of whole pages/],
    ['of half pages', [{ address: 0n, bytes: page / 2n }], /piece 0 is not of whole pages/],
    [
      'empty',
      [
        { address: 0n, bytes: mib },
        { address: 0n, bytes: 0n },
      ],
      /piece 1 is not of whole pages/,
    ],
    ['longer than anything', [{ address: 0n, bytes: 2n ** 64n - page }], /piece 0 is not of whole pages/],
    [
      'fewer bytes than it says',
      [{ address: 0n, bytes: page }],
      /pieces of 4096 bytes for a region of 1048576/,
    ],
    ['none at all', [], /pieces of 0 bytes for a region of 1048576/],
    [
      'without what it wrote there',
      [{ address: 0n, bytes: mib }],
      /wrote into piece 0 of its pages is not in/,
    ],
    [
      'more than a frame may list',
      Array.from({ length: 1000 }, (_, i) => ({ address: BigInt(i) * page, bytes: page })),
      /a broken pages: 1000 entries, at most 256/,
    ],
  ])('%s: refused, with the reason', async (_, pieces, reason) => {
    const guest = await liar(({ requestId, payload: { token } }) =>
      encodeFrame('pages', requestId, { ...everything, token }, pieces),
    );
    await guest.reason(reason, 5_000);
    expect(guest.requests).not.toContain('activate');
  });

  test('a million pieces, of which none follow', async () => {
    const guest = await liar(({ requestId, payload: { token } }) => {
      const payload = encode(messages.pages.payload, { ...everything, token, pieces: 1_000_000 });
      return rawFrame(messages.pages.type, requestId, payload);
    });
    await guest.reason(/a broken pages: 1000000 entries, at most 256/, 5_000);
  });

  test('a region of more bytes than there may be', async () => {
    const guest = await liar(({ requestId, payload: { token } }) =>
      encodeFrame('pages', requestId, { bytes: 2n ** 63n, token }, [{ address: 0n, bytes: mib }]),
    );
    await guest.reason(/impossible: 9223372036854775808 bytes in all/, 5_000);
  });
});

/** With a right checksum, whatever is in it. */
function rawFrame(type: number, request_id: number, payload: Uint8Array): Uint8Array {
  const header = { magic: frameMagic, version: 1, type, request_id, payload_length: payload.length };
  const frame = Buffer.concat([encode(frameHeader, header), payload]);
  frame.writeUInt32LE(crc32c(frame, 0, frame.length), frameHeader.offsets.crc32c);
  return frame;
}
