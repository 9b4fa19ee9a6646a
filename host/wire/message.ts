// SPDX-License-Identifier: Apache-2.0

/**
 * The control channel: frames `{magic, version, type, request_id, payload_length, crc32c}` + payload.
 * Every request of the host has one reply with the same request id; frames the guest sends on its own have request id 0.
 */

import { bytes, type Struct, s32, struct, text, u16, u32, u64, type ValuesOf } from './struct.ts';

export const frameMagic = 0x52505356; // "VSPR"
export const protocolVersion = 1;
/** Name of the virtio-serial port. */
export const portName = 'org.vesper.probe.0';
/**
 * Where the frontend listens on vsock. Below 1024, so that no unprivileged process of the guest can take it first; "VES" on the keys
 * of a telephone.
 */
export const vsockPort = 837;

export const limits = {
  /** Largest payload of a frame, in bytes. */
  FRAME_PAYLOAD_MAX: { value: 16384 + 64, doc: 'largest payload of a frame, in bytes' },
  CHUNK_MAX: { value: 16384, doc: 'largest piece of an image in one push_data, in bytes' },
  IMAGE_MAX: { value: 4 << 20, doc: 'largest probe image, in bytes' },
  ARGS_MAX: { value: 4096, doc: 'longest argument string, in bytes, without its NUL' },
  SLOTS: { value: 64, doc: 'probe slots of one guest: 0 … SLOTS-1' },
  POINTS_MAX: { value: 32, doc: 'most probe points one probe can report' },
  PAGES_MAX: { value: 64 << 20, doc: 'largest region in memory of the guest, in bytes' },
  CLOCK_WATCH_MAX: {
    value: 2000,
    doc: "longest that the guest looks at the host's questions, in microseconds",
  },
  PIECES_MAX: { value: 256, doc: 'most pieces of guest memory that make up one region' },
} as const;

export const frameHeader = struct('vesper_frame', 'Header of every frame.', {
  magic: u32('VESPER_FRAME_MAGIC'),
  version: u16('protocol version of the sender'),
  type: u16('enum vesper_message'),
  request_id: u32('chosen by who asks, repeated in the reply; 0: unsolicited'),
  payload_length: u32('bytes that follow the header'),
  crc32c: u32('CRC-32C of the header with this field zero, then of the payload'),
  reserved: u32('zero'),
});

export const features = {
  IVSHMEM: { value: 1, doc: 'relay in an ivshmem region' },
  GUEST_PAGES: { value: 2, doc: 'relay in guest pages mapped by the host' },
  INLINE: { value: 4, doc: 'events over the channel' },
  BPF: { value: 8, doc: 'BPF probe images' },
  SHA256: { value: 16, doc: 'the frontend verifies the sha-256 of an image' },
  COMPARE_CLOCKS: { value: 32, doc: 'clocks are compared through the region' },
} as const;

export const backends = {
  NONE: { value: 0, doc: 'no relay' },
  IVSHMEM: { value: 1, doc: 'ivshmem region' },
  GUEST_PAGES: { value: 2, doc: 'guest pages' },
  INLINE: { value: 3, doc: 'frames of the control channel' },
} as const;

export const imageKinds = {
  NATIVE: { value: 1, doc: 'kernel module (.ko)' },
  BPF: { value: 2, doc: 'BPF object' },
} as const;

export const loadStages = {
  TRANSFER: { value: 1, doc: 'the image did not arrive whole' },
  INIT_MODULE: { value: 2, doc: 'init_module refused it or its init function failed' },
  LOADED: { value: 3, doc: 'loaded; a probe that registered has been armed' },
} as const;

export const pointKinds = {
  KPROBE: { value: 1, doc: 'kprobe at the entry of a kernel function' },
  KRETPROBE: { value: 2, doc: 'kretprobe of a kernel function' },
  TRACEPOINT: { value: 3, doc: 'kernel tracepoint' },
  NOTIFIER: { value: 4, doc: 'notifier chain' },
} as const;

/** State of one probe point, in the tail of loaded, armed, self_tested. */
export const pointStatus = struct('vesper_point_status', 'State of one probe point.', {
  name: text(64, 'function, tracepoint or chain'),
  kind: u32('enum vesper_point_kind'),
  error: s32('0: armed; negative errno: why it did not arm'),
  hits: u64('times the handler ran since it was armed'),
});

/** One loaded probe, in the tail of status_report. */
export const probeStatus = struct('vesper_probe_status', 'One probe known to the frontend.', {
  slot: u32('probe slot'),
  kind: u32('enum vesper_image_kind'),
  name: text(56, 'module name'),
  sha256: bytes(32, 'of the image'),
  registered: u32('1: the module registered itself as a probe'),
  armed: u32('1: armed'),
  armed_points: u32('probe points armed'),
  points: u32('probe points declared'),
  written: u64('records written since loading'),
  lost: u64('records lost since loading'),
});

/** A piece of a region that lies in guest pages, in the tail of pages. */
export const piece = struct('vesper_piece', 'Guest memory in one piece.', {
  address: u64('guest physical address, a multiple of the page'),
  bytes: u64('a multiple of the page'),
});

const empty = (name: string, doc: string) => struct(name, doc, { reserved: u64('zero') });

export type Tail = 'none' | 'text' | 'bytes' | 'points' | 'probes' | 'pieces';

interface MessageDefinition {
  readonly type: number;
  readonly from: 'host' | 'guest' | 'both';
  readonly payload: Struct;
  readonly tail: Tail;
  readonly doc: string;
}

const slotOnly = (name: string, doc: string) =>
  struct(name, doc, { slot: u32('probe slot'), flags: u32('zero') });

export const messages = {
  hello_request: {
    type: 1,
    from: 'host',
    tail: 'none',
    doc: 'Opens a session; drops whatever a former host left half done. Reply: hello, or error with -EPROTONOSUPPORT.',
    payload: struct('vesper_hello_request', 'Opens a session.', {
      min_version: u16('lowest protocol version the host speaks'),
      max_version: u16('highest protocol version the host speaks'),
      reserved: u32('zero'),
    }),
  },
  hello: {
    type: 2,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to hello_request: who the guest is.',
    payload: struct('vesper_hello', 'Who the guest is.', {
      epoch: u64('epoch of the relay that is still active, 0: none'),
      guest_time_ns: u64('CLOCK_BOOTTIME'),
      features: u64('enum vesper_feature'),
      boot_id: bytes(16, 'made anew at each boot of the guest'),
      relay_token: bytes(16, 'token of the region the frontend holds, zero: none'),
      relay_size: u64('bytes of that region, 0: none'),
      cpu_count: u32('number of possible CPUs: rings needed of each kind'),
      page_size: u32('bytes'),
      chunk_max: u32('bytes of image in one push_data'),
      image_max: u32('bytes'),
      frontend_version: text(32, 'version of vesper.ko'),
      kernel_release: text(64, 'as uname -r'),
      vermagic: text(128, 'version magic of the running kernel'),
      machine: text(16, 'as uname -m'),
    }),
  },
  region: {
    type: 3,
    from: 'guest',
    tail: 'none',
    doc: 'Unsolicited: a region became usable by the frontend, or went away.',
    payload: struct('vesper_region_notice', 'A region came or went.', {
      present: u32('1: mapped by the frontend, 0: gone'),
      error: s32('why a region that is there cannot be used'),
      size: u64('bytes'),
      token: bytes(16, 'token found in its header'),
    }),
  },
  activate: {
    type: 4,
    from: 'host',
    tail: 'none',
    doc: 'Starts the relay. Reply: activated.',
    payload: struct('vesper_activate', 'Starts the relay.', {
      epoch: u64('not zero; with RESUME the epoch that is active, else a new one'),
      token: bytes(16, 'which region'),
      backend: u32('enum vesper_backend'),
      flags: u32('enum vesper_activate_flag'),
      critical_ring_bytes: u32('data bytes of each ring for critical events, a power of two'),
      ring_bytes: u32('data bytes of each ring for other events, a power of two'),
      doorbell: u32("written to the device's doorbell register to wake the host; 0: send a doorbell frame"),
      reserved: u32('zero'),
    }),
  },
  activated: {
    type: 5,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to activate.',
    payload: struct('vesper_activated', 'The relay runs, or why not.', {
      error: s32('0 or negative errno'),
      resumed: u32('1: the rings were kept as they were'),
      ring_count: u32('rings in the region'),
      cpu_count: u32('possible CPUs'),
      epoch: u64('epoch now active'),
      doorbell: u32('1: the host is woken by the register, 0: by frames'),
      reserved: u32('zero'),
    }),
  },
  deactivate: {
    type: 6,
    from: 'host',
    tail: 'none',
    doc: 'Disarms every probe and stops the relay; after the reply the guest no longer touches the region.',
    payload: empty('vesper_deactivate', 'Stops the relay.'),
  },
  deactivated: {
    type: 7,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to deactivate.',
    payload: struct('vesper_deactivated', 'The relay has stopped.', {
      error: s32('0 or negative errno'),
      reserved: u32('zero'),
      written: u64('records written in this epoch'),
      lost: u64('records lost in this epoch'),
    }),
  },
  push_begin: {
    type: 8,
    from: 'host',
    tail: 'none',
    doc: 'Announces a probe image. Reply: push_ready.',
    payload: struct('vesper_push_begin', 'Announces a probe image.', {
      slot: u32('free probe slot the probe will have'),
      kind: u32('enum vesper_image_kind'),
      image_bytes: u32('size of the image'),
      args_bytes: u32('size of the argument string'),
      sha256: bytes(32, 'of the image'),
      name: text(56, 'module name'),
    }),
  },
  push_ready: {
    type: 9,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to push_begin.',
    payload: struct('vesper_push_ready', 'The frontend takes the image, or why not.', {
      error: s32('0 or negative errno: -EBUSY slot taken, -EFBIG too large, -EOPNOTSUPP kind'),
      slot: u32('probe slot'),
    }),
  },
  push_data: {
    type: 10,
    from: 'host',
    tail: 'bytes',
    doc: 'A piece of the image, in order; no reply: an error shows at the commit.',
    payload: struct('vesper_push_data', 'A piece of the image.', {
      slot: u32('probe slot'),
      offset: u32('where in the image, in bytes'),
    }),
  },
  push_commit: {
    type: 11,
    from: 'host',
    tail: 'text',
    doc: 'Loads the image with the argument string of the tail. Reply: loaded.',
    payload: slotOnly('vesper_push_commit', 'Loads the image.'),
  },
  loaded: {
    type: 12,
    from: 'guest',
    tail: 'points',
    doc: 'Reply to push_commit.',
    payload: struct('vesper_loaded', 'Result of a load.', {
      error: s32('0 or the negative errno of init_module'),
      stage: u32('enum vesper_load_stage'),
      slot: u32('probe slot'),
      registered: u32('1: the module registered itself as a probe'),
      armed_points: u32('probe points armed'),
      points: u32('entries of the tail'),
      load_ns: u64('duration of init_module'),
    }),
  },
  arm: {
    type: 13,
    from: 'host',
    tail: 'none',
    doc: 'Arms (on 1) or disarms (on 0) a loaded probe. Reply: armed.',
    payload: struct('vesper_arm', 'Arms or disarms a probe.', {
      slot: u32('probe slot'),
      on: u32('1: arm, 0: disarm'),
    }),
  },
  armed: {
    type: 14,
    from: 'guest',
    tail: 'points',
    doc: 'Reply to arm.',
    payload: struct('vesper_armed', 'Result of arming.', {
      error: s32('0 or negative errno'),
      slot: u32('probe slot'),
      armed_points: u32('probe points armed'),
      points: u32('entries of the tail'),
    }),
  },
  self_test: {
    type: 15,
    from: 'host',
    tail: 'none',
    doc: 'Makes the probe fire its own handlers and report which ran. Reply: self_tested.',
    payload: slotOnly('vesper_self_test', 'Asks for a self-test.'),
  },
  self_tested: {
    type: 16,
    from: 'guest',
    tail: 'points',
    doc: 'Reply to self_test; hits counts what ran during the test.',
    payload: struct('vesper_self_tested', 'Result of a self-test.', {
      error: s32('0: every armed point that can be tested fired; -EOPNOTSUPP: the probe has no self-test'),
      slot: u32('probe slot'),
      fired_points: u32('points whose handler ran during the test'),
      points: u32('entries of the tail'),
    }),
  },
  unload: {
    type: 17,
    from: 'host',
    tail: 'none',
    doc: 'Disarms at once, then unloads by delete_module. Reply: unloaded.',
    payload: slotOnly('vesper_unload', 'Unloads a probe.'),
  },
  unloaded: {
    type: 18,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to unload.',
    payload: struct('vesper_unloaded', 'Result of an unload.', {
      error: s32('0 or the negative errno of delete_module'),
      slot: u32('probe slot'),
      written: u64('records the probe wrote'),
      lost: u64('records the probe lost'),
    }),
  },
  status: {
    type: 19,
    from: 'host',
    tail: 'none',
    doc: 'Asks what the frontend holds. Reply: status_report.',
    payload: empty('vesper_status', 'Asks what the frontend holds.'),
  },
  status_report: {
    type: 20,
    from: 'guest',
    tail: 'probes',
    doc: 'Reply to status.',
    payload: struct('vesper_status_report', 'What the frontend holds.', {
      epoch: u64('0: no relay'),
      written: u64('records written in this epoch'),
      lost: u64('records lost in this epoch'),
      doorbells: u64('doorbells sent since the frontend was loaded'),
      bad_frames: u64('frames refused since the frontend was loaded'),
      bad_bytes: u64('bytes skipped while looking for a frame'),
      probes: u32('entries of the tail'),
      reserved: u32('zero'),
    }),
  },
  ping: {
    type: 21,
    from: 'host',
    tail: 'none',
    doc: 'Heartbeat. Reply: pong.',
    payload: struct('vesper_ping', 'Heartbeat.', { host_time_ns: u64('CLOCK_MONOTONIC of the host') }),
  },
  pong: {
    type: 22,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to ping.',
    payload: struct('vesper_pong', 'Both clocks and the counters.', {
      host_time_ns: u64('as in the ping'),
      guest_received_ns: u64('CLOCK_BOOTTIME when the ping was read'),
      guest_sent_ns: u64('CLOCK_BOOTTIME when the pong was written'),
      written: u64('records written in this epoch'),
      lost: u64('records lost in this epoch'),
    }),
  },
  doorbell: {
    type: 23,
    from: 'guest',
    tail: 'none',
    doc: 'Unsolicited: a ring whose need_wakeup was set has records, and the guest has no doorbell register to write to.',
    payload: struct('vesper_doorbell', 'There is something to read.', { epoch: u64('epoch of the rings') }),
  },
  revoke: {
    type: 24,
    from: 'guest',
    tail: 'none',
    doc: 'Unsolicited: the frontend stops the relay (unload, region going away) and waits for revoked.',
    payload: struct('vesper_revoke', 'The relay ends.', {
      epoch: u64('which epoch'),
      reason: s32('errno-like'),
      reserved: u32('zero'),
    }),
  },
  revoked: {
    type: 25,
    from: 'host',
    tail: 'none',
    doc: 'The host has unmapped the region of that epoch. No reply.',
    payload: struct('vesper_revoked', 'The host let go of the region.', { epoch: u64('which epoch') }),
  },
  error: {
    type: 26,
    from: 'guest',
    tail: 'text',
    doc: 'Instead of a reply, or unsolicited: a frame the frontend refuses. The tail says why.',
    payload: struct('vesper_error', 'A frame was refused.', {
      error: s32('negative errno'),
      type: u32('type of the refused frame'),
      min_version: u16('lowest protocol version the frontend speaks'),
      max_version: u16('highest protocol version the frontend speaks'),
      reserved: u32('zero'),
    }),
  },
  pages_request: {
    type: 27,
    from: 'host',
    tail: 'none',
    doc: 'Asks for a region in guest pages. Rings that are active in one are kept, and that one is the answer. Reply: pages.',
    payload: struct('vesper_pages_request', 'Asks for a region in guest pages.', {
      bytes: u64('size; 0: the host has unmapped the region, and it may be freed'),
      token: bytes(16, 'for its header'),
    }),
  },
  pages: {
    type: 28,
    from: 'guest',
    tail: 'pieces',
    doc: "Reply to pages_request: the region's pieces in the order of its bytes. One without active rings begins with a header that the guest stamped, each further piece with vesper_piece_check: proof that the host maps what the guest meant.",
    payload: struct('vesper_pages', 'Where a region in guest pages lies.', {
      error: s32('0 or negative errno'),
      pieces: u32('entries of the tail'),
      bytes: u64('all pieces together'),
      token: bytes(16, 'in its header'),
    }),
  },
  records: {
    type: 29,
    from: 'guest',
    tail: 'bytes',
    doc: 'Unsolicited, inline backend: what a ring holds, and its counters. The tail is a piece of its data area, of whole records; it may be empty.',
    payload: struct('vesper_records', 'A piece of a ring.', {
      epoch: u64('epoch of the rings'),
      position: u64('where the tail begins, in bytes since the epoch began'),
      attempts: u64('records tried in this ring'),
      lost: u64('records not written because the ring was full'),
      ring: u32('number of the ring'),
      reserved: u32('zero'),
    }),
  },
  consumed: {
    type: 30,
    from: 'host',
    tail: 'none',
    doc: 'Inline backend: the host delivered a ring up to there; the guest may overwrite it. No reply.',
    payload: struct('vesper_consumed', 'The host has read a ring.', {
      epoch: u64('epoch of the rings'),
      tail: u64('bytes read since the epoch began'),
      ring: u32('number of the ring'),
      reserved: u32('zero'),
    }),
  },
  compare_clocks: {
    type: 31,
    from: 'host',
    tail: 'none',
    doc: 'Has the guest answer what the host asks in the first control block of the region, until it asks no more or the time is over. Reply: clocks_compared.',
    payload: struct('vesper_compare_clocks', 'The host is about to ask for the time.', {
      epoch: u64('epoch of the rings'),
      watch_us: u32('how long at most, up to CLOCK_WATCH_MAX'),
      reserved: u32('zero'),
    }),
  },
  clocks_compared: {
    type: 32,
    from: 'guest',
    tail: 'none',
    doc: 'Reply to compare_clocks.',
    payload: struct('vesper_clocks_compared', 'The guest no longer looks.', {
      error: s32('0 or negative errno: -ESTALE another epoch, -EOPNOTSUPP no shared region'),
      answered: u32('questions'),
    }),
  },
} as const satisfies Record<string, MessageDefinition>;

export const activateFlags = {
  RESUME: { value: 1, doc: 'go on with the rings as they are' },
} as const;

export type MessageName = keyof typeof messages;
export type PayloadOf<N extends MessageName> = ValuesOf<(typeof messages)[N]['payload']>;

const byType = new Map<number, MessageName>(
  (Object.keys(messages) as MessageName[]).map((name) => [messages[name].type, name]),
);

/** Name of a message type, undefined where this version knows none. */
export function messageName(type: number): MessageName | undefined {
  return byType.get(type);
}
