// SPDX-License-Identifier: Apache-2.0

/**
 * What a probe's module says of itself, in ELF sections of fixed-size entries. The compiler fills them in (offsetof,
 * sizeof), the host reads them from the file it pushes and trusts nothing else about an event's layout.
 */

import { struct, text, u8, u16, u32, u64 } from './struct.ts';

export const descriptorVersion = 1;

export const sections = {
  probe: '.vesper.probe',
  events: '.vesper.events',
  fields: '.vesper.fields',
  values: '.vesper.values',
  points: '.vesper.points',
} as const;

export const severities = {
  DEBUG: { value: 0, doc: 'statistics' },
  INFO: { value: 1, doc: 'normal life' },
  NOTICE: { value: 2, doc: 'worth a look' },
  WARNING: { value: 3, doc: 'something goes wrong' },
  CRITICAL: { value: 4, doc: 'something died; has a ring of its own' },
} as const;

export const fieldTypes = {
  U8: { value: 1, doc: 'unsigned, 1 byte' },
  U16: { value: 2, doc: 'unsigned, 2 bytes' },
  U32: { value: 3, doc: 'unsigned, 4 bytes' },
  U64: { value: 4, doc: 'unsigned, 8 bytes' },
  S8: { value: 5, doc: 'signed, 1 byte' },
  S16: { value: 6, doc: 'signed, 2 bytes' },
  S32: { value: 7, doc: 'signed, 4 bytes' },
  S64: { value: 8, doc: 'signed, 8 bytes' },
  TEXT: { value: 9, doc: 'fixed array of char, NUL padded' },
} as const;

export const roles = {
  DETAIL: { value: 0, doc: 'shown with the event' },
  LABEL: { value: 1, doc: 'few different values: a metric label' },
  VALUE: { value: 2, doc: 'a quantity: a metric value' },
  PID: { value: 3, doc: 'process or thread id in the initial pid namespace' },
  UID: { value: 4, doc: 'user id in the initial user namespace' },
  COMM: { value: 5, doc: 'name of a task' },
  ADDRESS: { value: 6, doc: 'address, shown in hexadecimal' },
} as const;

export const units = {
  NONE: { value: 0, doc: '' },
  BYTES: { value: 1, doc: 'bytes' },
  PAGES: { value: 2, doc: 'pages of the guest' },
  NANOSECONDS: { value: 3, doc: 'nanoseconds' },
  COUNT: { value: 4, doc: 'a count' },
} as const;

export const valueKinds = {
  ENUM: { value: 1, doc: 'the field holds this value' },
  FLAG: { value: 2, doc: 'the field has these bits set' },
} as const;

export const probeDescriptor = struct('vesper_probe_desc', 'The probe itself; one entry.', {
  version: u32('VESPER_DESCRIPTOR_VERSION'),
  reserved: u32('zero'),
  name: text(32, 'name of the probe'),
  doc: text(216, 'one sentence'),
});

export const eventDescriptor = struct('vesper_event_desc', 'One event.', {
  id: u16('event id, unique in the probe, not zero'),
  severity: u8('enum vesper_severity'),
  reserved: u8('zero'),
  payload_bytes: u32('size of the payload'),
  name: text(32, 'name of the event'),
  doc: text(152, 'one sentence'),
});

export const fieldDescriptor = struct('vesper_field_desc', 'One field of an event.', {
  event: u16('event id it belongs to'),
  offset: u16('in the payload, in bytes'),
  size: u16('in bytes'),
  type: u8('enum vesper_field_type'),
  role: u8('enum vesper_role'),
  unit: u8('enum vesper_unit'),
  reserved: u8('zero'),
  name: text(30, 'name of the field'),
  values: text(24, 'set of named values, empty: none'),
  doc: text(128, 'one sentence'),
});

export const valueDescriptor = struct('vesper_value_desc', 'A name of a value.', {
  value: u64('the value, or the bits'),
  kind: u32('enum vesper_value_kind'),
  set: text(24, 'set it belongs to'),
  name: text(28, 'its name'),
});

export const pointDescriptor = struct('vesper_point_desc', 'One probe point.', {
  kind: u32('enum vesper_point_kind'),
  required: u32('1: without it the probe is of no use'),
  name: text(64, 'function, tracepoint or chain'),
  doc: text(120, 'what it gives'),
});
