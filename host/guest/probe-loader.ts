// SPDX-License-Identifier: Apache-2.0

/** What is loaded in a guest: loads, tests and unloads probes, one after the other, and keeps the table of their slots true. */

import { messageOf, VesperError } from '../error.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import { errnoName } from '../probe/errno.ts';
import { limits } from '../wire/message.ts';
import type { ControlLink } from './control-link.ts';
import { hexOf, type Incarnation } from './incarnation.ts';
import { type LoadedProbe, type PointState, pointStates } from './probe-state.ts';
import { ProbeTable } from './probe-table.ts';
import { type PushResult, push } from './push.ts';
import type { Remembered, SessionOptions } from './session-options.ts';

export const unloadTimeLimitMs = 30_000;
/** MODULE_NAME_LEN of the kernel is 56, with a NUL. */
const moduleName = /^[\w-]{1,55}$/;

export interface UnloadResult {
  /** 0 or the negative errno of the guest's kernel. */
  readonly error: number;
  readonly written: number;
  readonly lost: number;
}

export interface SelfTestResult {
  /** Name of an errno, or empty. */
  readonly error: string;
  /** Which handlers ran. */
  readonly points: readonly PointState[];
}

export interface ProbeLoaderOptions extends Pick<SessionOptions, 'imageOf' | 'remembered'> {
  readonly link: ControlLink;
  readonly incarnation: Incarnation;
  /** Bytes of an image that the frontend takes at once. */
  readonly chunkMax: number;
  /** Deliver what is in the rings, as long as it can be decoded. */
  readonly drain: () => void;
  /** What is loaded is another than before. */
  readonly onChange: () => void;
  /** A push broke off: whether the probe was loaded is not known, and a new session has to ask. */
  readonly onUncertain: (why: string) => void;
}

export class ProbeLoader {
  readonly probes = new ProbeTable();
  readonly #options: ProbeLoaderOptions;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ProbeLoaderOptions) {
    this.#options = options;
  }

  /** Load an image and arm it; a slot has to be free. A load the guest's kernel refused is a result, not an error. */
  push(image: ProbeImage, args: string): Promise<PushResult> {
    const { link, incarnation, chunkMax, drain, onChange, onUncertain } = this.#options;
    return this.#inTurn(async () => {
      const slot = this.probes.freeSlot();
      if (slot === undefined) throw new VesperError('REFUSED', `${incarnation.guest}: no probe slot is free`);
      const { name, sha256 } = image;
      const unknown = { registered: false, armedPoints: 0, points: [] };
      // Known before it can write: its first record may be read before the answer to the commit.
      this.probes.set({ slot, name, sha256, image, loading: true, ...unknown, args });
      let result: PushResult;
      try {
        const chunkBytes = Math.min(chunkMax, limits.CHUNK_MAX.value);
        result = await push(link, { image, slot, args, chunkBytes });
      } catch (thrown) {
        onUncertain(`a push failed: ${messageOf(thrown)}`);
        throw this.#pushFailed(image, thrown);
      }
      if (result.error === 0) {
        const { registered, armedPoints, points } = result;
        this.probes.set({ slot, name, sha256, image, registered, armedPoints, points, args });
        onChange();
      } else {
        drain();
        this.probes.remove(slot);
      }
      return result;
    });
  }

  /** Disarm and unload. */
  unload({ slot }: LoadedProbe): Promise<UnloadResult> {
    const { link, drain, onChange } = this.#options;
    return this.#inTurn(async () => {
      const { payload } = await link.request('unload', { slot }, 'unloaded', {
        timeLimitMs: unloadTimeLimitMs,
      });
      if (payload.error === 0) {
        // Its last records are still to be decoded.
        drain();
        this.probes.remove(slot);
        onChange();
      }
      return { error: payload.error, written: Number(payload.written), lost: Number(payload.lost) };
    });
  }

  /** Let the probe fire its own handlers. */
  selfTest({ slot }: LoadedProbe): Promise<SelfTestResult> {
    return this.#inTurn(async () => {
      const { payload, tail } = await this.#options.link.request('self_test', { slot }, 'self_tested', {
        timeLimitMs: unloadTimeLimitMs,
      });
      return { error: payload.error === 0 ? '' : errnoName(payload.error), points: pointStates(tail) };
    });
  }

  /** Ask the frontend what is loaded: by an earlier service, or by one that died in the middle of a push. */
  recover(): Promise<void> {
    return this.#inTurn(() => this.#recover());
  }

  /** What a later service has to know of the probes. */
  remembered(): Remembered['probes'] {
    return this.probes
      .all()
      .map(({ slot, name, sha256, args }) => ({ slot, name, sha256, args: args ?? '' }));
  }

  async #recover(): Promise<void> {
    const { link, incarnation, remembered, imageOf } = this.#options;
    const { guest, bootId } = incarnation;
    const { tail } = await link.request('status', {}, 'status_report');
    const known = remembered?.bootId === bootId ? remembered.probes : [];
    for (const { slot, name, registered, armed_points, sha256: sum } of tail) {
      const sha256 = hexOf(sum);
      if (slot >= limits.SLOTS.value || !moduleName.test(name)) {
        throw new VesperError(
          'PROTOCOL',
          `${guest}: the frontend reports an impossible probe, "${name}" in slot ${slot}`,
          { data: { guest, slot } },
        );
      }
      if (this.probes.slots[slot]?.probe.sha256 === sha256) continue;
      this.probes.set({
        slot,
        name,
        sha256,
        image: imageOf(sha256),
        registered: registered === 1,
        armedPoints: armed_points,
        points: [],
        args: known.find((one) => one.slot === slot && one.sha256 === sha256)?.args,
      });
    }
  }

  #pushFailed({ name }: ProbeImage, thrown: unknown): unknown {
    if (!(thrown instanceof VesperError)) return thrown;
    const { guest } = this.#options.incarnation;
    const message = `${thrown.message}: whether ${name} was loaded is not known yet; it stays wanted, and the service sees to it when the guest answers again (vesper detach ${guest} ${name} calls it off)`;
    return new VesperError(thrown.code, message, { cause: thrown, data: { ...thrown.data, probe: name } });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work, work);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }
}
