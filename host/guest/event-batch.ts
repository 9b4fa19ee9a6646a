// SPDX-License-Identifier: Apache-2.0

/**
 * Decoded events of one guest as the bus hands them round: columns and a payload arena, read by row. One object per session is
 * bound to each batch the relay reads, so nothing is made per event; `keepIn()` is for who wants to keep a batch.
 */

import type { EventDeclaration } from '../probe/declaration.ts';
import { emptyBatch, type RelayBatch } from '../relay/batch.ts';
import { compileDecoder, type EventDecoder } from '../relay/decoder.ts';
import type { KeptRows, RowRing } from '../relay/row-ring.ts';
import { regionConstants } from '../wire/region.ts';
import { type Alignment, type ClockAlignment, unaligned } from './clock.ts';
import type { VesperEvent } from './event.ts';
import { frontendEvents, frontendName } from './frontend-events.ts';
import type { Incarnation } from './incarnation.ts';
import type { ProbeTable, SlotEntry } from './probe-table.ts';
import { wallMsOf } from './wall-clock.ts';

const frontendSlot = regionConstants.FRONTEND_SLOT.value;
const frontendDecoders: ReadonlyMap<number, EventDecoder> = new Map(
  frontendEvents.map((event) => [event.id, compileDecoder(event)]),
);

/** What is needed, beside the rows in their ring, to show a batch again. */
export interface KeptBatch {
  readonly owner: EventBatch;
  readonly rows: KeptRows;
  readonly slots: readonly (SlotEntry | undefined)[];
  readonly alignment: Alignment;
  readonly receivedNs: number;
}

export class EventBatch {
  readonly incarnation: Incarnation;
  readonly #table: ProbeTable;
  readonly #clock: ClockAlignment;
  #columns: RelayBatch;
  #slots: readonly (SlotEntry | undefined)[] = [];
  #alignment: Alignment = unaligned;
  #receivedNs = 0;
  #rowsInTime: Uint32Array | undefined;
  /** Rows of all batches so far that nobody can decode: unknown slot or event, or a payload of another size. */
  undecodable = 0;
  /** Set once the guest's kernel said that it panics. */
  panicMessage: string | undefined;

  constructor(
    incarnation: Incarnation,
    table: ProbeTable,
    clock: ClockAlignment,
    columns: RelayBatch = emptyBatch,
  ) {
    this.incarnation = incarnation;
    this.#table = table;
    this.#clock = clock;
    this.#columns = columns;
  }

  /** Show another batch through this object. */
  bind(columns: RelayBatch): this {
    this.#columns = columns;
    this.#rowsInTime = undefined;
    this.#slots = this.#table.slots;
    this.#alignment = this.#clock.alignment;
    this.#receivedNs = Number(process.hrtime.bigint());
    for (let row = 0; row < columns.count; row += 1) {
      const decoder = this.decoder(row);
      if (decoder === undefined) this.undecodable += 1;
      else if (columns.slot[row] === frontendSlot)
        this.panicMessage = String(decoder.toObject(columns, row)['message']);
    }
    return this;
  }

  get length(): number {
    return this.#columns.count;
  }

  /** Slot, event, cpu, ring, guest time and sequence number of the rows, and their payload. */
  get columns(): RelayBatch {
    return this.#columns;
  }

  /**
   * The rows in the order of their guest times, which a reader wants: they come ring by ring, critical ones first. The same whenever it
   * is asked for, also of a batch that was kept; those who judge each row for itself need not ask.
   */
  rowsInTime(): Uint32Array {
    const { timeNs, count } = this.#columns;
    this.#rowsInTime ??= Uint32Array.from({ length: count }, (_, row) => row).sort(
      (a, b) => (timeNs[a] as number) - (timeNs[b] as number) || a - b,
    );
    return this.#rowsInTime;
  }

  probeName(row: number): string {
    const slot = this.#columns.slot[row] as number;
    return slot === frontendSlot ? frontendName : (this.#slots[slot]?.probe.name ?? '');
  }

  /** Undefined where nobody can decode the row. */
  decoder(row: number): EventDecoder | undefined {
    const { slot, event } = this.#columns;
    const at = slot[row] as number;
    const decoders = at === frontendSlot ? frontendDecoders : this.#slots[at]?.decoders;
    const decoder = decoders?.get(event[row] as number);
    return decoder?.fits(this.#columns, row) === true ? decoder : undefined;
  }

  declaration(row: number): EventDeclaration | undefined {
    return this.decoder(row)?.declaration;
  }

  /** Milliseconds since 1970, with a fraction. */
  hostTimeMs(row: number): number {
    return wallMsOf(this.#hostNs(row));
  }

  /** From the record to the host's reading it, in µs. */
  latencyUs(row: number): number {
    return (this.#receivedNs - this.#hostNs(row)) / 1e3;
  }

  /** Largest error of hostTimeMs and latencyUs, in µs; null before the clocks were aligned. */
  hostTimeErrorUs(row: number): number | null {
    const boundNs = this.#alignment.boundNs(this.#hostNs(row));
    return Number.isFinite(boundNs) ? boundNs / 1e3 : null;
  }

  /** One event as an object. A row nobody can decode has the number of its event as name, and no fields. */
  toEvent(row: number): VesperEvent {
    const columns = this.#columns;
    const decoder = this.decoder(row);
    const ring = columns.ring[row] as number;
    return {
      guest: this.incarnation.guest,
      uuid: this.incarnation.uuid,
      bootId: this.incarnation.bootId,
      probe: this.probeName(row),
      event: decoder?.declaration.name ?? String(columns.event[row]),
      severity: decoder?.declaration.severity ?? 'info',
      cpu: columns.cpu[row] as number,
      sequence: columns.sequence[row] as number,
      ring: ring % 2 === 0 ? 'critical' : 'other',
      guestTimeNs: columns.timeNs[row] as number,
      hostTimeMs: this.hostTimeMs(row),
      hostTimeErrorUs: this.hostTimeErrorUs(row),
      latencyUs: this.latencyUs(row),
      fields: decoder?.toObject(columns, row) ?? {},
    };
  }

  /** Copies the rows into `ring`; `restored` shows them again as they are now. */
  keepIn(ring: RowRing): KeptBatch {
    return {
      owner: this,
      rows: ring.append(this.#columns),
      slots: this.#slots,
      alignment: this.#alignment,
      receivedNs: this.#receivedNs,
    };
  }

  /** A batch that was kept. Throws where its rows were overwritten; valid until others are kept. */
  static restored({ owner, rows, slots, alignment, receivedNs }: KeptBatch, ring: RowRing): EventBatch {
    const batch = new EventBatch(owner.incarnation, owner.#table, owner.#clock, ring.read(rows));
    batch.#slots = slots;
    batch.#alignment = alignment;
    batch.#receivedNs = receivedNs;
    return batch;
  }

  #hostNs(row: number): number {
    return this.#alignment.hostNs(this.#columns.timeNs[row] as number);
  }
}
