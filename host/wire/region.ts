// SPDX-License-Identifier: Apache-2.0

/**
 * The shared region:
 *
 *   0            header, then at `directory_offset` one entry per ring; padded to a page
 *   header_bytes one control block of 256 bytes per ring: producer half (guest writes), consumer half (host writes)
 *   …            padded to a page, then the data areas, each a power of two long and page aligned
 *
 * Rings are ordered critical(cpu 0), other(cpu 0), critical(cpu 1), … Positions (head, tail) count bytes from the start of
 * the epoch and never wrap; the place in the data area is position modulo its size. A record never wraps: what is left at
 * the end of the area and too small is filled by padding.
 *
 *   0 … tail          read by the host, free
 *   tail … head       whole records; everything below head is committed
 *   head … reserved   being written (the reserve position lives in guest-private memory)
 *
 * The clocks are compared through the first control block, which takes no interrupt and no system call: the guest's thread looks at
 * `clock_question` for as long as compare_clocks asks it to, and answers each new one with its time. The host knows when it
 * asked and when it saw the answer; between the two the guest read its clock.
 *
 * While the state is ACTIVE, the thread of the guest that answers the host writes `heartbeat_ns` every HEARTBEAT_MS: the host
 * sees that it runs without asking, and in the region of a dead guest the word says when that was last so.
 */

import { bytes, struct, text, u16, u32, u64 } from './struct.ts';

export const regionMagic = 0x4e474552_52505356n; // "VSPRREGN"
export const layoutVersion = 1;
export const pageBytes = 4096;
export const ringBlockBytes = 256;
export const directoryOffset = 256;
export const recordAlignment = 8;
export const heartbeatMs = 1_000;

export const regionConstants = {
  LAYOUT_VERSION: { value: layoutVersion, doc: 'version of the layout below' },
  REGION_PAGE: { value: pageBytes, doc: 'alignment of the parts of a region, in bytes' },
  RING_BLOCK: { value: ringBlockBytes, doc: 'bytes of one control block' },
  DIRECTORY_OFFSET: { value: directoryOffset, doc: 'where the directory starts, in bytes' },
  RECORD_ALIGN: { value: recordAlignment, doc: 'alignment of records, in bytes' },
  RING_MIN: { value: 4096, doc: 'smallest data area, in bytes' },
  RECORD_MAX: { value: 1024, doc: 'longest record with its header, in bytes' },
  FRONTEND_SLOT: { value: 0xffff, doc: 'slot of the events of the frontend itself' },
  EVENT_PANIC: { value: 1, doc: 'event of the frontend: the guest kernel panics (struct vesper_panic)' },
  HEARTBEAT_MS: { value: heartbeatMs, doc: 'between two heartbeats of the guest, in milliseconds' },
  RECORD_PAD: { value: 0x80000000, doc: 'in a record length: padding up to the end of the data area' },
} as const;

export const regionStates = {
  BLANK: { value: 0, doc: 'stamped by the host, no rings yet' },
  ACTIVE: { value: 1, doc: 'rings in use' },
  SEALED: { value: 2, doc: 'the guest no longer writes' },
} as const;

export const ringKinds = {
  CRITICAL: { value: 0, doc: 'events declared critical' },
  OTHER: { value: 1, doc: 'all other events' },
} as const;

export const regionHeader = struct(
  'vesper_region',
  'Header page of the region; who makes the region writes the first line, the guest the rest.',
  {
    magic: u64('VESPER_REGION_MAGIC, written by the maker: the host, or in guest pages the guest'),
    layout_version: u32('written by the maker'),
    reserved: u32('zero'),
    region_bytes: u64('written by the maker'),
    token: bytes(16, 'written by the maker: which region this is'),
    epoch: u64('session epoch of the rings'),
    boot_id: bytes(16, 'boot of the guest that wrote the rings'),
    header_bytes: u32('header and directory, a multiple of the page'),
    ring_count: u32('entries of the directory'),
    cpu_count: u32('possible CPUs of the guest'),
    state: u32('enum vesper_region_state'),
    heartbeat_ns: u64('CLOCK_BOOTTIME of the guest at its last heartbeat; 0: none in this epoch yet'),
  },
);

/** Until the rings are laid out. */
export const pieceCheck = struct(
  'vesper_piece_check',
  'At the beginning of each piece of guest pages but the first.',
  {
    token: bytes(16, "as in the region's header"),
    index: u64('of the piece, from 1 on'),
  },
);

export const ringEntry = struct(
  'vesper_ring_entry',
  'Directory entry of one ring; offsets in bytes from the start of the region.',
  {
    block_offset: u64('control block'),
    data_offset: u64('data area'),
    data_bytes: u32('size of the data area, a power of two'),
    cpu: u16('CPU that writes this ring'),
    kind: u16('enum vesper_ring_kind'),
  },
);

export const ringBlock = struct(
  'vesper_ring_block',
  'Control block of one ring. The guest writes the first half, the host the second.',
  {
    head: u64('bytes published; written with release ordering, paired with the acquire of the reader'),
    attempts: u64('records tried: sequence number of the next one'),
    lost: u64('records not written because the ring was full'),
    producer_reserved: bytes(88, 'zero'),
    clock_answer: u64('first ring: the question that clock_ns answers; written with release ordering'),
    clock_ns: u64('first ring: CLOCK_BOOTTIME when the guest saw the question'),
    tail: u64('bytes read; written with release ordering, paired with the acquire of the writer'),
    need_wakeup: u32('1: the host sleeps; the guest clears it and rings the doorbell once'),
    consumer_pad: u32('zero'),
    consumer_reserved: bytes(104, "the host's own: how far its readers got; zero at activation"),
    clock_question: u64('first ring: any number that is new to the guest; 0: the host asks no more'),
  },
);

export const recordHeader = struct('vesper_record', 'Header of one record; the payload follows.', {
  tag: u32('commit tag: low 32 bits of (position >> 3) xor of epoch, written last'),
  length: u32('bytes with header, before rounding up to RECORD_ALIGN; RECORD_PAD marks padding'),
  slot: u16('probe slot'),
  event: u16('event id of the probe'),
  cpu: u16('CPU it was written on'),
  flags: u16('zero'),
  time_ns: u64('CLOCK_BOOTTIME of the guest'),
  sequence: u64('number of the record in its ring, lost ones counted too'),
});

/** Written by the frontend into the critical ring, in the panic notifier: it is the last thing a guest says. */
export const panicEvent = struct('vesper_panic', 'Payload of VESPER_EVENT_PANIC.', {
  message: text(256, 'what was passed to panic()'),
});
