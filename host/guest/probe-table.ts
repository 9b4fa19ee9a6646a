// SPDX-License-Identifier: Apache-2.0

/** Which probe has which slot of a guest, and the decoders of its events. */

import { compileDecoder, type EventDecoder } from '../relay/decoder.ts';
import { limits } from '../wire/message.ts';
import type { LoadedProbe } from './probe-state.ts';

export interface SlotEntry {
  readonly probe: LoadedProbe;
  /** By event id. */
  readonly decoders: ReadonlyMap<number, EventDecoder>;
}

export class ProbeTable {
  /** Replaced, never changed: a snapshot of a batch keeps the slots as they were. */
  #slots: readonly (SlotEntry | undefined)[] = [];

  get slots(): readonly (SlotEntry | undefined)[] {
    return this.#slots;
  }

  all(): readonly LoadedProbe[] {
    return this.#slots.flatMap((entry) => (entry === undefined ? [] : [entry.probe]));
  }

  find(name: string): LoadedProbe | undefined {
    return this.all().find((probe) => probe.name === name);
  }

  freeSlot(): number | undefined {
    for (let slot = 0; slot < limits.SLOTS.value; slot += 1) if (this.#slots[slot] === undefined) return slot;
    return undefined;
  }

  set(probe: LoadedProbe): void {
    const before = this.#slots[probe.slot];
    const decoders =
      before?.probe.sha256 === probe.sha256 && before.probe.image === probe.image
        ? before.decoders
        : new Map(
            (probe.image?.declaration?.events ?? []).map(
              (event) => [event.id, compileDecoder(event)] as const,
            ),
          );
    const slots = [...this.#slots];
    slots[probe.slot] = { probe, decoders };
    this.#slots = slots;
  }

  remove(slot: number): void {
    const slots = [...this.#slots];
    slots[slot] = undefined;
    this.#slots = slots;
  }
}
