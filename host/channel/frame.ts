// SPDX-License-Identifier: Apache-2.0

/**
 * Frames of the control channel. Whoever sends them is taken as hostile: reading uses the memory of a few of the largest
 * frames and work linear in the bytes received, never throws, and skips and counts what is not a frame.
 */

import {
  frameHeader,
  frameMagic,
  limits,
  type MessageName,
  messageName,
  messages,
  type PayloadOf,
  protocolVersion,
} from '../wire/message.ts';
import { decode, encodeInto, type ValuesOf } from '../wire/struct.ts';
import { crc32c } from './crc32c.ts';
import { encodePayload, type Frame, parsePayload, type TailOf } from './frame-payload.ts';

export type { Frame, Piece, PointStatus, ProbeStatus, TailOf } from './frame-payload.ts';

/** Largest frame with its header, in bytes. */
export const frameBytesMax = frameHeader.size + limits.FRAME_PAYLOAD_MAX.value;

const crcAt = frameHeader.offsets.crc32c;
const noCrc = new Uint8Array(4);

/** CRC of the frame at `bytes[start … end)`: of the header with its crc field taken as zero, then of the payload. */
function frameCrc(bytes: Uint8Array, start: number, end: number): number {
  const before = crc32c(noCrc, 0, noCrc.length, crc32c(bytes, start, start + crcAt));
  return crc32c(bytes, start + crcAt + noCrc.length, end, before);
}

/**
 * The bytes of a frame. Payload fields left out are zero; the number of points or probes is taken from the tail. Throws a
 * RangeError where something does not fit.
 */
export function encodeFrame<N extends MessageName>(
  name: N,
  requestId: number,
  payload: Partial<PayloadOf<N>>,
  tail?: TailOf<N>,
): Uint8Array {
  const body = encodePayload(name, payload, tail);
  if (body.length > limits.FRAME_PAYLOAD_MAX.value) {
    throw new RangeError(
      `${name}: ${body.length} bytes of payload, ${limits.FRAME_PAYLOAD_MAX.value} are allowed`,
    );
  }
  const frame = new Uint8Array(frameHeader.size + body.length);
  frame.set(body, frameHeader.size);
  const header = {
    magic: frameMagic,
    version: protocolVersion,
    type: messages[name].type,
    request_id: requestId,
    payload_length: body.length,
  };
  encodeInto(frameHeader, header, frame);
  encodeInto(frameHeader, { crc32c: frameCrc(frame, 0, frame.length) }, frame);
  return frame;
}

/** A frame with a valid checksum that cannot be used all the same. */
export interface Refusal {
  readonly why: 'version' | 'type' | 'direction' | 'shape';
  readonly version: number;
  readonly type: number;
  readonly requestId: number;
  /** For people. */
  readonly message: string;
}

export interface FrameParserOptions {
  /** Who sends: frames that only the other side may send are refused. Default: the guest. */
  readonly from?: 'guest' | 'host';
  readonly onRefusal?: (refusal: Refusal) => void;
}

const magic = Buffer.alloc(4);
magic.writeUInt32LE(frameMagic);

/** Moving what is left to the front costs less than what was read since it was last moved. */
const capacity = 4 * frameBytesMax;

/**
 * A header with a false checksum may hold many more false headers inside the payload it claims, and each would cost a
 * checksum over all of its own. Searching inside is paid for from a budget that grows with what is received; when it is
 * used up, the claimed frame is skipped whole.
 */
const searchBudgetMax = 16 * frameBytesMax;
const searchBudgetPerByte = 4;

export class FrameParser {
  /** Frames refused: bad length, checksum, version, type, direction or shape. */
  badFrames = 0;
  /** Bytes that belonged to no frame with a valid checksum. */
  badBytes = 0;
  /** The last frame refused although its checksum was right. */
  lastRefusal: Refusal | undefined;

  readonly #from: 'guest' | 'host';
  readonly #onRefusal: (refusal: Refusal) => void;
  readonly #buffer = Buffer.allocUnsafeSlow(capacity);
  /** The same memory, of which `slice` makes copies. */
  readonly #bytes = new Uint8Array(this.#buffer.buffer);
  #start = 0;
  #end = 0;
  #searchBudget = searchBudgetMax;

  constructor(options: FrameParserOptions = {}) {
    this.#from = options.from ?? 'guest';
    this.#onRefusal = options.onRefusal ?? (() => {});
  }

  /** Bytes kept until the rest of their frame arrives. */
  get pendingBytes(): number {
    return this.#end - this.#start;
  }

  /** Take the next bytes and return the frames they completed. `chunk` may be reused afterwards. */
  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    for (let taken = 0; taken < chunk.length; ) {
      if (this.#end === capacity) this.#moveToFront();
      const piece = chunk.subarray(taken, taken + capacity - this.#end);
      this.#buffer.set(piece, this.#end);
      this.#end += piece.length;
      taken += piece.length;
      this.#searchBudget = Math.min(searchBudgetMax, this.#searchBudget + searchBudgetPerByte * piece.length);
      this.#parse(frames);
    }
    return frames;
  }

  /**
   * Give up the frame that is only half there (its sender was reset in the middle of it) and return the whole frames that
   * arrived behind it. Meant for the moment when an answer is overdue.
   */
  resync(): Frame[] {
    const frames: Frame[] = [];
    while (frames.length === 0 && this.pendingBytes > 0) {
      if (this.pendingBytes >= frameHeader.size) this.badFrames += 1;
      this.#skip(1);
      this.#parse(frames);
    }
    return frames;
  }

  #moveToFront(): void {
    this.#buffer.copyWithin(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
  }

  #skip(count: number): void {
    this.#start += count;
    this.badBytes += count;
  }

  #parse(frames: Frame[]): void {
    while (this.#findMagic()) {
      if (this.pendingBytes < frameHeader.size) return;
      const size =
        frameHeader.size + this.#buffer.readUInt32LE(this.#start + frameHeader.offsets.payload_length);
      if (size > frameBytesMax) {
        this.badFrames += 1;
        this.#skip(1);
        continue;
      }
      if (this.pendingBytes < size) return;
      const end = this.#start + size;
      if (frameCrc(this.#buffer, this.#start, end) !== this.#buffer.readUInt32LE(this.#start + crcAt)) {
        this.badFrames += 1;
        this.#searchBudget -= size;
        this.#skip(this.#searchBudget > 0 ? 1 : size);
        continue;
      }
      const header = decode(frameHeader, this.#buffer, this.#start);
      const frame = this.#frame(header, this.#bytes.subarray(this.#start + frameHeader.size, end));
      this.#start = end;
      if ('why' in frame) this.#refuse(frame);
      else frames.push(frame);
    }
  }

  /** Skip to the next magic; false where there is none. Keeps an end that may be its beginning. */
  #findMagic(): boolean {
    const pending = this.#buffer.subarray(this.#start, this.#end);
    const at = pending.indexOf(magic);
    if (at >= 0) {
      this.#skip(at);
      return true;
    }
    let keep = Math.min(magic.length - 1, pending.length);
    while (!pending.subarray(pending.length - keep).equals(magic.subarray(0, keep))) keep -= 1;
    this.#skip(pending.length - keep);
    return false;
  }

  #frame(header: ValuesOf<typeof frameHeader>, payload: Uint8Array): Frame | Refusal {
    const { version, type, request_id: requestId } = header;
    const refusal = (why: Refusal['why'], message: string) => ({ why, version, type, requestId, message });
    if (version !== protocolVersion) {
      return refusal(
        'version',
        `a frame of protocol version ${version}, this side speaks ${protocolVersion}`,
      );
    }
    const name = messageName(type);
    if (name === undefined) return refusal('type', `a frame of unknown type ${type}`);
    const from: string = messages[name].from;
    if (from !== 'both' && from !== this.#from) {
      return refusal('direction', `a ${name}, which the ${this.#from} may not send`);
    }
    const frame = parsePayload(name, requestId, payload);
    return 'fault' in frame ? refusal('shape', `a broken ${name}: ${frame.fault}`) : frame;
  }

  #refuse(refusal: Refusal): void {
    this.badFrames += 1;
    this.lastRefusal = refusal;
    this.#onRefusal(refusal);
  }
}
