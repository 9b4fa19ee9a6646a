// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c } from '../../host/channel/crc32c.ts';
import {
  encodeFrame,
  type Frame,
  FrameParser,
  frameBytesMax,
  type Refusal,
} from '../../host/channel/frame.ts';
import { frameHeader, limits, type MessageName, messages, protocolVersion } from '../../host/wire/message.ts';
import { encodeInto } from '../../host/wire/struct.ts';

const concat = (...parts: Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
const text = (s: string) => new TextEncoder().encode(s);

const doorbell = (epoch: bigint) => encodeFrame('doorbell', 0, { epoch });
const epochsOf = (frames: Frame[]) => frames.map((f) => (f.name === 'doorbell' ? f.payload.epoch : f.name));

/** A frame with header fields of one's choice and a checksum that fits. */
function craft(header: {
  version?: number;
  type?: number;
  payload?: Uint8Array;
  request_id?: number;
}): Uint8Array {
  const payload = header.payload ?? new Uint8Array(8);
  const frame = concat(new Uint8Array(frameHeader.size), payload);
  const rest = { magic: 0x52505356, version: header.version ?? protocolVersion, type: header.type ?? 23 };
  encodeInto(
    frameHeader,
    { ...rest, request_id: header.request_id ?? 0, payload_length: payload.length },
    frame,
  );
  encodeInto(frameHeader, { crc32c: crc32c(frame) }, frame);
  return frame;
}

function refusalOf(frame: Uint8Array): Refusal {
  const seen: Refusal[] = [];
  const parser = new FrameParser({ onRefusal: (refusal) => seen.push(refusal) });
  expect(parser.push(concat(frame, doorbell(7n)))).toMatchObject([
    { name: 'doorbell', payload: { epoch: 7n } },
  ]);
  expect(parser.badFrames).toBe(1);
  expect(seen).toEqual([parser.lastRefusal]);
  return seen[0] as Refusal;
}

describe('a frame as bytes', () => {
  it('is header, payload and tail, little-endian', () => {
    const frame = encodeFrame(
      'push_data',
      0x01020304,
      { slot: 5, offset: 0x10000 },
      Uint8Array.of(0xaa, 0xbb, 0xcc),
    );
    const expected = Buffer.from(
      '565350520100' + '0a00' + '04030201' + '0b000000' + '00000000' + '00000000',
      'hex',
    );
    const body = Buffer.from('05000000' + '00000100' + 'aabbcc', 'hex');
    const whole = Buffer.concat([expected, body]);
    const crc = crc32c(whole);
    whole.writeUInt32LE(crc, 16);
    expect(Buffer.from(frame).toString('hex')).toBe(whole.toString('hex'));
  });

  it('refuses what does not fit', () => {
    const most = limits.FRAME_PAYLOAD_MAX.value - messages.push_data.payload.size;
    expect(encodeFrame('push_data', 1, {}, new Uint8Array(most)).length).toBe(frameBytesMax);
    expect(() => encodeFrame('push_data', 1, {}, new Uint8Array(most + 1))).toThrow(RangeError);
    expect(() => encodeFrame('push_begin', 1, { name: 'n'.repeat(57) })).toThrow(RangeError);
  });
});

describe('reading', () => {
  it('gives back every message as it was written', () => {
    const point = { name: 'do_exit', kind: 1, error: -2, hits: 3n };
    const probe = {
      slot: 1,
      kind: 1,
      name: 'vesper_signal',
      sha256: new Uint8Array(32).fill(9),
      registered: 1,
      armed: 1,
      armed_points: 2,
      points: 2,
      written: 10n,
      lost: 0n,
    };
    const tails = {
      none: undefined,
      text: 'why not',
      bytes: Uint8Array.of(1, 2),
      points: [point, point],
      probes: [probe],
      pieces: [{ address: 0x1_0000_0000n, bytes: 4096n }],
    };
    for (const name of Object.keys(messages) as MessageName[]) {
      const { from, tail, payload } = messages[name];
      const counts =
        tail === 'points' || tail === 'probes' || tail === 'pieces' ? { [tail]: tails[tail].length } : {};
      const first = Object.keys(payload.fields)[0] as string;
      const isBig = (payload.fields as Record<string, { kind: string }>)[first]?.kind === 'u64';
      const sent = { [first]: isBig ? 42n : 42 };
      const frames = new FrameParser({ from }).push(
        encodeFrame(name, 77, sent as never, tails[tail] as never),
      );
      expect(frames).toMatchObject([{ name, requestId: 77, payload: { ...sent, ...counts } }]);
      expect(frames[0]?.tail).toEqual(tails[tail]);
    }
  });

  it('keeps nothing of the chunk it was given', () => {
    const token = Uint8Array.from({ length: 16 }, (_, i) => i);
    const chunk = Buffer.from(encodeFrame('region', 0, { error: -22, token }));
    const parser = new FrameParser();
    const [frame] = parser.push(chunk);
    chunk.fill(0xff);
    parser.push(Buffer.alloc(200_000, 0xee));
    expect(frame).toMatchObject({ payload: { error: -22, token } });
  });

  it('makes text of a guest safe to print', () => {
    const [frame] = new FrameParser().push(encodeFrame('error', 0, {}, '\u001b[2Jgone'));
    expect(frame?.tail).toBe('\\x1b[2Jgone');
  });

  it('takes any chunking, with garbage in between', () => {
    const piece = fc.oneof(
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map((epoch) => ({ bytes: doorbell(epoch), epoch })),
      // No magic inside garbage; the test of false magics is below.
      fc
        .uint8Array({ maxLength: 60 })
        .map((b) => ({ bytes: b.map((x) => (x === 0x56 ? 0 : x)), epoch: undefined })),
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 70 })),
        (pieces, cuts) => {
          const stream = concat(...pieces.map((p) => p.bytes));
          const parser = new FrameParser();
          const got: Frame[] = [];
          for (let at = 0, i = 0; at < stream.length; i += 1) {
            const size = cuts.length === 0 ? 1 : (cuts[i % cuts.length] as number);
            got.push(...parser.push(stream.subarray(at, at + size)));
            at += size;
          }
          expect(epochsOf(got)).toEqual(pieces.flatMap((p) => (p.epoch === undefined ? [] : [p.epoch])));
          const garbage = pieces.reduce((sum, p) => sum + (p.epoch === undefined ? p.bytes.length : 0), 0);
          expect(parser.badBytes).toBe(garbage);
          expect(parser.pendingBytes).toBe(0);
        },
      ),
    );
  });

  it('never accepts a frame with a flipped bit, and finds the next one', () => {
    const frame = encodeFrame('pong', 3, { host_time_ns: 1n, written: 99n });
    // A flipped length may claim the frames behind it: enough of them follow to fill what it claims.
    const behind = concat(...Array.from({ length: 600 }, (_, i) => doorbell(BigInt(i))));
    const expected = Array.from({ length: 600 }, (_, i) => BigInt(i));
    for (let bit = 0; bit < frame.length * 8; bit += 1) {
      const flipped = frame.slice();
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      const parser = new FrameParser();
      expect(epochsOf(parser.push(concat(flipped, behind)))).toEqual(expected);
    }
  });

  it('survives anything', () => {
    const header = fc
      .record({ version: fc.nat(3), type: fc.nat(40), payload: fc.uint8Array({ maxLength: 400 }) })
      .map((h) => craft(h));
    const mangled = fc.tuple(header, fc.nat(), fc.nat(255)).map(([bytes, at, value]) => {
      bytes[at % bytes.length] = value;
      return bytes;
    });
    const noise = fc.oneof(fc.uint8Array({ maxLength: 200 }), header, mangled);
    fc.assert(
      fc.property(fc.array(noise, { maxLength: 40 }), (parts) => {
        const parser = new FrameParser();
        for (const part of parts) {
          parser.push(part);
          expect(parser.pendingBytes).toBeLessThanOrEqual(frameBytesMax);
        }
        parser.resync();
      }),
      { numRuns: 300 },
    );
  });
});

describe('what is refused', () => {
  it('another protocol version, with the version and the request it answers', () => {
    expect(refusalOf(craft({ version: 9, type: 2, request_id: 5 }))).toEqual({
      why: 'version',
      version: 9,
      type: 2,
      requestId: 5,
      message: 'a frame of protocol version 9, this side speaks 1',
    });
  });

  it('an unknown type', () => {
    expect(refusalOf(craft({ type: 999 }))).toMatchObject({
      why: 'type',
      message: 'a frame of unknown type 999',
    });
  });

  it('a message of the host that comes from a guest', () => {
    expect(refusalOf(encodeFrame('unload', 1, { slot: 1 }))).toMatchObject({
      why: 'direction',
      message: 'a unload, which the guest may not send',
    });
  });

  it.each([
    [
      'a payload too short',
      craft({ type: 23, payload: new Uint8Array(7) }),
      'a broken doorbell: 7 bytes of payload, 8 are due',
    ],
    [
      'a payload too long',
      craft({ type: 23, payload: new Uint8Array(9) }),
      'a broken doorbell: 1 bytes too many',
    ],
    [
      'more points than their count says',
      craft({ type: 14, payload: new Uint8Array(16 + 80) }),
      'a broken armed: 80 bytes for 0 entries of 80',
    ],
    [
      'a count beyond all limits',
      craft({ type: 14, payload: new Uint8Array(16).fill(0xff) }),
      'a broken armed: 4294967295 entries, at most 32 are allowed',
    ],
  ])('%s', (_, frame, message) => {
    expect(refusalOf(frame)).toMatchObject({ why: 'shape', message });
  });

  it('a length beyond the limit, at once', () => {
    const header = craft({});
    encodeInto(frameHeader, { payload_length: limits.FRAME_PAYLOAD_MAX.value + 1 }, header);
    const parser = new FrameParser();
    parser.push(header);
    expect(parser).toMatchObject({ badFrames: 1, badBytes: header.length, pendingBytes: 0 });
  });
});

describe('bounded', () => {
  it('memory: a stream without end that is never a frame leaves less than one frame', () => {
    const parser = new FrameParser();
    const chunk = new Uint8Array(65536).fill(0x56);
    for (let i = 0; i < 64; i += 1) parser.push(chunk);
    expect(parser.pendingBytes).toBeLessThanOrEqual(3);
    expect(parser.badBytes).toBe(64 * 65536 - parser.pendingBytes);
  });

  it('work: headers nested in false payloads cost no more than a few checksums of what came', () => {
    const header = craft({ payload: new Uint8Array(limits.FRAME_PAYLOAD_MAX.value) })
      .subarray(0, frameHeader.size)
      .slice();
    encodeInto(frameHeader, { crc32c: 1 }, header);
    const bomb = concat(...Array.from({ length: 1 << 15 }, () => header));
    const parser = new FrameParser();
    const before = process.cpuUsage();
    for (let at = 0; at < bomb.length; at += 4096) parser.push(bomb.subarray(at, at + 4096));
    const { user } = process.cpuUsage(before);
    // Unbounded it is 32,768 checksums of 16 KiB: half a gigabyte, more than a second.
    expect(parser.badFrames).toBeLessThan(16 + (5 * bomb.length) / frameBytesMax + 2);
    expect(user / 1000).toBeLessThan(500);
    expect(epochsOf([...parser.resync(), ...parser.push(doorbell(1n))])).toEqual([1n]);
  });

  it('work: a large frame byte by byte', () => {
    const frame = encodeFrame('push_data', 1, {}, new Uint8Array(limits.CHUNK_MAX.value).fill(0x56));
    const parser = new FrameParser({ from: 'host' });
    const frames: Frame[] = [];
    for (let round = 0; round < 20; round += 1) {
      for (let i = 0; i < frame.length; i += 1) frames.push(...parser.push(frame.subarray(i, i + 1)));
    }
    expect(frames.length).toBe(20);
  });
});

describe('resync', () => {
  it('gives up half a frame and returns the whole ones behind it', () => {
    const half = encodeFrame('error', 0, {}, 'x'.repeat(9_000)).subarray(0, 5_000);
    const parser = new FrameParser();
    expect(parser.push(concat(half, doorbell(1n), doorbell(2n)))).toEqual([]);
    expect(epochsOf(parser.resync())).toEqual([1n, 2n]);
    expect(parser).toMatchObject({ badFrames: 1, badBytes: 5_000, pendingBytes: 0 });
  });

  it('goes through half frames inside half frames', () => {
    const half = (size: number) => encodeFrame('error', 0, {}, 'x'.repeat(size)).subarray(0, 100);
    const parser = new FrameParser();
    parser.push(concat(half(9_000), half(8_000), text('VSPR'), doorbell(3n)));
    expect(epochsOf(parser.resync())).toEqual([3n]);
  });

  it('is harmless where nothing is pending', () => {
    expect(new FrameParser().resync()).toEqual([]);
  });
});
