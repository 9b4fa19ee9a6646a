// SPDX-License-Identifier: Apache-2.0

/** What frames carry, as typed values: the payload struct of a message and the tail behind it. */

import {
  limits,
  type MessageName,
  messages,
  type PayloadOf,
  piece,
  pointStatus,
  probeStatus,
} from '../wire/message.ts';
import { decode, encodeInto, type Fields, type Struct, textOf, type ValuesOf } from '../wire/struct.ts';

export type PointStatus = ValuesOf<typeof pointStatus>;
export type Piece = ValuesOf<typeof piece>;
export type ProbeStatus = ValuesOf<typeof probeStatus>;

interface TailTypes {
  readonly none: undefined;
  /** Control characters shown as `\xNN` when read. */
  readonly text: string;
  readonly bytes: Uint8Array;
  readonly points: readonly PointStatus[];
  readonly probes: readonly ProbeStatus[];
  readonly pieces: readonly Piece[];
}
type Tail = TailTypes[keyof TailTypes];

/** What follows the payload of a message. */
export type TailOf<N extends MessageName> = TailTypes[(typeof messages)[N]['tail']];

/** One frame; a union over the names given, discriminated by `name`. */
export type Frame<N extends MessageName = MessageName> = {
  [K in N]: {
    readonly name: K;
    /** 0: nobody asked for it. */
    readonly requestId: number;
    readonly payload: PayloadOf<K>;
    readonly tail: TailOf<K>;
  };
}[N];

type AnyValues = Partial<ValuesOf<Struct>>;

/** Payload and tail as bytes. The number of its entries is taken from the tail. Throws a RangeError on what does not fit. */
export function encodePayload<N extends MessageName>(
  name: N,
  payload: Partial<PayloadOf<N>>,
  tail?: TailOf<N>,
): Uint8Array {
  const { payload: layout, tail: kind } = messages[name] as { payload: Struct; tail: keyof TailTypes };
  const counted = Array.isArray(tail) ? { ...payload, [kind]: tail.length } : payload;
  const tailBytes = encodeTail(kind, tail);
  const out = new Uint8Array(layout.size + tailBytes.length);
  encodeInto(layout, counted as AnyValues, out);
  out.set(tailBytes, layout.size);
  return out;
}

const encoder = new TextEncoder();

function encodeTail(kind: keyof TailTypes, tail: Tail): Uint8Array {
  if (tail === undefined) return new Uint8Array(0);
  if (typeof tail === 'string') return encoder.encode(tail);
  if (tail instanceof Uint8Array) return tail;
  const layout: Struct = kind === 'points' ? pointStatus : kind === 'pieces' ? piece : probeStatus;
  const out = new Uint8Array(tail.length * layout.size);
  for (const [i, entry] of tail.entries())
    encodeInto(layout, entry as unknown as AnyValues, out, i * layout.size);
  return out;
}

/** A payload that is not what its type asks for. */
export interface ShapeFault {
  readonly fault: string;
}

/** The frame, or what is wrong with its payload; never throws. Everything in the frame is a copy. */
export function parsePayload(name: MessageName, requestId: number, raw: Uint8Array): Frame | ShapeFault {
  const { payload: layout, tail: kind } = messages[name] as { payload: Struct; tail: keyof TailTypes };
  if (raw.length < layout.size) return { fault: `${raw.length} bytes of payload, ${layout.size} are due` };
  const payload: Counts = decode(layout, raw);
  const read = decodeTail(kind, payload, raw.subarray(layout.size));
  return 'fault' in read ? read : ({ name, requestId, payload, tail: read.tail } as Frame);
}

interface Counts {
  readonly points?: unknown;
  readonly probes?: unknown;
  readonly pieces?: unknown;
}

function decodeTail(kind: keyof TailTypes, counts: Counts, raw: Uint8Array): { tail: Tail } | ShapeFault {
  switch (kind) {
    case 'none':
      return raw.length === 0 ? { tail: undefined } : { fault: `${raw.length} bytes too many` };
    case 'text':
      return { tail: textOf(raw) };
    case 'bytes':
      return { tail: raw.slice() };
    case 'points':
      return decodeEntries(pointStatus, counts.points, limits.POINTS_MAX.value, raw);
    case 'probes':
      return decodeEntries(probeStatus, counts.probes, limits.SLOTS.value, raw);
    case 'pieces':
      return decodeEntries(piece, counts.pieces, limits.PIECES_MAX.value, raw);
  }
}

function decodeEntries<F extends Fields>(layout: Struct<F>, count: unknown, most: number, raw: Uint8Array) {
  if (typeof count !== 'number' || count > most)
    return { fault: `${count} entries, at most ${most} are allowed` };
  if (raw.length !== count * layout.size) {
    return { fault: `${raw.length} bytes for ${count} entries of ${layout.size}` };
  }
  return { tail: Array.from({ length: count }, (_, i) => decode(layout, raw, i * layout.size)) };
}
