// SPDX-License-Identifier: Apache-2.0

/** A probe that is loaded in a guest, as the host knows it. */

import type { PointStatus } from '../channel/frame.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import { errnoName } from '../probe/errno.ts';
import { pointKinds } from '../wire/message.ts';

export interface PointState {
  readonly name: string;
  readonly kind: string;
  readonly armed: boolean;
  /** Name of the errno, empty where it could be armed. */
  readonly error: string;
  readonly hits: number;
}

export interface LoadedProbe {
  readonly slot: number;
  readonly name: string;
  readonly sha256: string;
  /** Undefined where this service never saw the image. */
  readonly image: ProbeImage | undefined;
  /** The push is under way: what it writes can be decoded already. */
  readonly loading?: true;
  readonly registered: boolean;
  readonly armedPoints: number;
  /** Known only of probes this service loaded or tested itself. */
  readonly points: readonly PointState[];
  /** The kernel's argument string; unknown of probes found loaded that nobody remembers. */
  readonly args: string | undefined;
}

const kindNames = new Map<number, string>(
  Object.entries(pointKinds).map(([name, { value }]) => [value, name.toLowerCase()]),
);

export function pointStates(tail: readonly PointStatus[]): readonly PointState[] {
  return tail.map((point) => ({
    name: point.name,
    kind: kindNames.get(point.kind) ?? String(point.kind),
    armed: point.error === 0,
    error: point.error === 0 ? '' : errnoName(point.error),
    hits: Number(point.hits),
  }));
}
