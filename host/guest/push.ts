// SPDX-License-Identifier: Apache-2.0

/** Push of one probe image: begin, the data in chunks, commit. */

import { VesperError } from '../error.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import { imageKinds, type PayloadOf } from '../wire/message.ts';
import type { ControlLink } from './control-link.ts';
import type { PointState } from './probe-state.ts';
import { pointStates } from './probe-state.ts';

/** The kernel may have to reclaim memory, and init functions may take their time. */
const loadTimeLimitMs = 60_000;

export interface PushRequest {
  readonly image: ProbeImage;
  readonly slot: number;
  /** The kernel's argument string. */
  readonly args: string;
  /** Largest piece the frontend takes, in bytes. */
  readonly chunkBytes: number;
}

/** What the frontend said of a load. `error` is 0 or the negative errno of the guest's kernel. */
export interface PushResult {
  readonly error: number;
  readonly stage: number;
  readonly registered: boolean;
  /** Where `error` is not 0 none is armed. */
  readonly points: readonly PointState[];
  readonly armedPoints: number;
  /** Duration of init_module in the guest. */
  readonly loadNs: bigint;
}

/** Throws only where the exchange itself fails; a load the guest's kernel refused is a result. */
export async function push(
  link: ControlLink,
  { image, slot, args, chunkBytes }: PushRequest,
): Promise<PushResult> {
  const argBytes = new TextEncoder().encode(args);
  const ready = await link.request(
    'push_begin',
    {
      slot,
      kind: image.kind === 'native' ? imageKinds.NATIVE.value : imageKinds.BPF.value,
      image_bytes: image.bytes.length,
      args_bytes: argBytes.length,
      sha256: Buffer.from(image.sha256, 'hex'),
      name: image.name,
    },
    'push_ready',
  );
  if (ready.payload.error !== 0) return refused(ready.payload);
  for (let offset = 0; offset < image.bytes.length; offset += chunkBytes) {
    await link.send('push_data', { slot, offset }, image.bytes.subarray(offset, offset + chunkBytes));
  }
  const { payload, tail } = await link.request('push_commit', { slot }, 'loaded', {
    timeLimitMs: loadTimeLimitMs,
    tail: args,
  });
  if (payload.slot !== slot) {
    throw new VesperError(
      'PROTOCOL',
      `the frontend answered for slot ${payload.slot} where ${slot} was pushed`,
    );
  }
  return {
    error: payload.error,
    stage: payload.stage,
    registered: payload.registered === 1,
    // Those of a load that was refused were taken back, whatever became of each.
    points: pointStates(tail).map((point) => (payload.error === 0 ? point : { ...point, armed: false })),
    armedPoints: payload.armed_points,
    loadNs: payload.load_ns,
  };
}

const refused = (ready: PayloadOf<'push_ready'>): PushResult => ({
  error: ready.error,
  stage: 0,
  registered: false,
  points: [],
  armedPoints: 0,
  loadNs: 0n,
});
