// SPDX-License-Identifier: Apache-2.0

/** A peer at the channel that says what no frontend would: the reason says so, in bounded time. */

import { randomBytes } from 'node:crypto';
import { afterAll, describe, expect, test } from 'vitest';
import { crc32c } from '../../host/channel/crc32c.ts';
import { encodeFrame, type Frame } from '../../host/channel/frame.ts';
import { frameHeader, frameMagic } from '../../host/wire/message.ts';
import { encode } from '../../host/wire/struct.ts';
import { leftovers, probePath } from '../harness/rig.ts';
import { type Behaviour, StandInGuest } from '../harness/stand-in-guest.ts';

afterAll(() => expect(leftovers()).toEqual([]));

type Usual = Parameters<Behaviour>[1];

describe('a peer that stands in for a guest', () => {
  const attach = (guest: StandInGuest) =>
    guest.managed.attach([probePath('6.1', 'signal')], [], { by: 'test', selfTest: false, force: true });

  test('sends noise without end: it is not spoken with', async () => {
    await using guest = await StandInGuest.start((_request, _usual, socket) => {
      const noise = randomBytes(64 << 10);
      const more = () => {
        while (!socket.destroyed && socket.write(noise));
      };
      socket.on('drain', more);
      more();
      return undefined;
    });
    expect(await guest.reason(/no frontend answers/, 15_000)).toMatch(/load vesper.ko in the guest/);
    expect(guest.managed.state).toBe('running');
  });

  test.each([
    [
      'refuses the version',
      ({ requestId }: Frame) =>
        encodeFrame('error', requestId, { error: -93, type: 1, min_version: 2, max_version: 3 }, 'too old'),
      /speaks protocol version 2 to 3, this service 1: install the frontend that came with this service/,
    ],
    [
      'answers in another version',
      ({ requestId }: Frame) => withVersion(encodeFrame('hello', requestId, {}), 7),
      /speaks protocol version 7, this service 1/,
    ],
    [
      'answers what was not asked',
      ({ requestId }: Frame) => encodeFrame('pong', requestId, {}),
      /answered pong where hello was due/,
    ],
    [
      'has 4 billion CPUs',
      (_: Frame, usual: Usual) => usual({ cpu_count: 0xffff_ffff }),
      /impossible: 4294967295 CPUs/,
    ],
    ['has no CPU', (_: Frame, usual: Usual) => usual({ cpu_count: 0 }), /impossible: 0 CPUs/],
    [
      'has more CPUs than the region has room for',
      (_: Frame, usual: Usual) => usual({ cpu_count: 4096 }),
      /too small for 4096 CPUs/,
    ],
    [
      'takes images in pieces of nothing',
      (_: Frame, usual: Usual) => usual({ chunk_max: 0 }),
      /pieces of 0 bytes/,
    ],
    [
      'announces a frame of 4 GiB',
      () =>
        encode(frameHeader, {
          magic: frameMagic,
          version: 1,
          type: 2,
          request_id: 1,
          payload_length: 0xffff_ffff,
        }),
      /no frontend answers/,
    ],
  ])('%s: the reason says so', async (_what, answer, reason) => {
    await using guest = await StandInGuest.start((request, usual) => answer(request, usual));
    await guest.reason(reason, 15_000);
    expect(guest.managed.session).toBeUndefined();
  });

  test.each([
    ['when the image is announced', 'push_begin', 6_000],
    ['after the image', 'push_commit', 12_000],
  ] as const)(
    'stops answering %s: the attach fails in bounded time, and the session is opened anew',
    async (_when, name, limitMs) => {
      let dead = false;
      await using guest = await StandInGuest.start((request, usual) => {
        dead ||= request.name === name;
        return dead ? undefined : usual();
      });
      await guest.managed.active(10_000);
      const startedAt = performance.now();
      await expect(attach(guest)).rejects.toThrow(
        /stopped answering in the middle of push_|did not answer push_begin within 5000 ms/,
      );
      expect(performance.now() - startedAt).toBeLessThan(limitMs);
      expect(guest.managed.past.at(-1)?.reason).toMatch(/a push failed/);

      dead = false;
      guest.behaviour = (_request, usual) => usual();
      await guest.managed.active(20_000);
      // It stayed wanted, as nobody knows whether it was loaded, and is pushed again.
      const again = () => guest.managed.session?.probes.find('signal');
      await expect.poll(() => again() !== undefined && again()?.loading === undefined).toBe(true);
    },
  );

  test.each([
    ['in a slot that no guest has', { slot: 0x0fff_ffff, name: 'signal' }],
    ['with a name that no module has', { slot: 1, name: '../../etc/passwd' }],
  ])('reports a probe %s', async (_what, probe) => {
    const nonsense = {
      ...{ kind: 77, sha256: randomBytes(32), registered: 9, armed: 9, armed_points: 0xffff_ffff },
      ...{ points: 0xffff_ffff, written: 2n ** 64n - 1n, lost: 0n, ...probe },
    };
    await using guest = await StandInGuest.start((request, usual) =>
      request.name === 'status' ? encodeFrame('status_report', request.requestId, {}, [nonsense]) : usual(),
    );
    await guest.reason(/reports an impossible probe/, 10_000);
    expect(guest.managed.session).toBeUndefined();
  });
});

/** The same frame as a peer of another protocol version would send it. */
function withVersion(frame: Uint8Array, version: number): Uint8Array {
  const { offsets } = frameHeader;
  const other = Buffer.from(frame);
  other.writeUInt16LE(version, offsets.version);
  other.writeUInt32LE(0, offsets.crc32c);
  other.writeUInt32LE(crc32c(other), offsets.crc32c);
  return other;
}
