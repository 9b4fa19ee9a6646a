// SPDX-License-Identifier: Apache-2.0

/**
 * The .vesper.* sections of a module → a ProbeDeclaration that everything above may rely on: whatever it says of an
 * event's layout is inside the payload, does not overlap and has one meaning. A third party's module is hostile input.
 * Everything stays in the order of the file, which is that of the source.
 */

import {
  descriptorVersion,
  eventDescriptor,
  fieldDescriptor,
  pointDescriptor,
  probeDescriptor,
  sections,
  severities,
  valueDescriptor,
} from '../wire/descriptor.ts';
import { limits, pointKinds } from '../wire/message.ts';
import { recordHeader, regionConstants } from '../wire/region.ts';
import { decode, type Fields, type Struct, type ValuesOf } from '../wire/struct.ts';
import type {
  EventDeclaration,
  PointDeclaration,
  PointKind,
  ProbeDeclaration,
  Severity,
} from './declaration.ts';
import type { ElfFile } from './elf.ts';
import { readFields } from './event-fields.ts';
import { enumName, identifier, nameOf, once } from './names.ts';
import { readValueSets } from './value-sets.ts';

/** A record has to fit into the ring with its header. */
const payloadMax = regionConstants.RECORD_MAX.value - recordHeader.size;

/** Bounds the work on a hostile file; the two probes of this project have a few dozen entries. */
const entriesMax = 8192;

/** Undefined where the module has no descriptors: it is no probe of ours, but still loads, is listed and unloads. */
export function readDeclaration(elf: ElfFile): ProbeDeclaration | undefined {
  const probes = readEntries(elf, sections.probe, probeDescriptor);
  const events = readEntries(elf, sections.events, eventDescriptor);
  const fields = readEntries(elf, sections.fields, fieldDescriptor);
  const values = readEntries(elf, sections.values, valueDescriptor);
  const points = readEntries(elf, sections.points, pointDescriptor);

  const [probe] = probes;
  if (probe === undefined) {
    if (events.length + fields.length + values.length + points.length === 0) return undefined;
    throw elf.bad(
      `it has descriptors but no ${sections.probe} section; VESPER_PROBE is missing from its source`,
    );
  }
  if (probe.version !== descriptorVersion) {
    throw elf.bad(
      `its descriptors are of version ${probe.version}, this host reads version ${descriptorVersion}; ` +
        (probe.version > descriptorVersion
          ? 'upgrade the host'
          : 'rebuild it with the current vesper/probe.h'),
    );
  }
  if (probes.length > 1) throw elf.bad(`it declares ${probes.length} probes; a module holds one`);
  zero(elf, probe.reserved, 'the probe');
  return {
    name: identifier(elf, probe.name, 'probe'),
    doc: probe.doc,
    events: readEvents(elf, events, fields, values),
    points: readPoints(elf, points),
  };
}

function readEvents(
  elf: ElfFile,
  entries: readonly ValuesOf<typeof eventDescriptor>[],
  fields: readonly ValuesOf<typeof fieldDescriptor>[],
  values: readonly ValuesOf<typeof valueDescriptor>[],
): readonly EventDeclaration[] {
  const sets = readValueSets(elf, values);
  const byEvent = Map.groupBy(fields, (field) => field.event);
  once(elf, entries, ({ id }) => `event id ${id}`);
  once(elf, entries, ({ name }) => `event name "${name}"`);
  const events = entries.map((entry) => {
    const name = identifier(elf, entry.name, 'event');
    const what = `event "${name}"`;
    if (entry.id === 0) throw elf.bad(`${what} has the id 0`);
    if (entry.payload_bytes > payloadMax) {
      throw elf.bad(
        `${what} has a payload of ${entry.payload_bytes} bytes; a record holds at most ${payloadMax}`,
      );
    }
    zero(elf, entry.reserved, what);
    return {
      id: entry.id,
      name,
      severity: enumName(elf, severities, entry.severity, `severity of ${what}`) as Severity,
      doc: entry.doc,
      payloadBytes: entry.payload_bytes,
      fields: readFields(elf, name, entry.payload_bytes, byEvent.get(entry.id) ?? [], sets),
    };
  });
  const known = new Set(entries.map(({ id }) => id));
  const stray = fields.find((field) => !known.has(field.event));
  if (stray !== undefined)
    throw elf.bad(`field "${stray.name}" belongs to event ${stray.event}, which is not declared`);
  return events;
}

function readPoints(
  elf: ElfFile,
  entries: readonly ValuesOf<typeof pointDescriptor>[],
): readonly PointDeclaration[] {
  if (entries.length > limits.POINTS_MAX.value) {
    throw elf.bad(
      `it has ${entries.length} probe points; the frontend handles at most ${limits.POINTS_MAX.value}`,
    );
  }
  once(elf, entries, ({ kind, name }) => `probe point "${name}" of kind ${kind}`);
  return entries.map((entry) => {
    const name = nameOf(elf, entry.name, /^[A-Za-z0-9_.:$+-]+$/, 'probe point');
    if (entry.required > 1)
      throw elf.bad(`probe point "${name}" has ${entry.required} where 0 or 1 is expected`);
    return {
      name,
      kind: enumName(elf, pointKinds, entry.kind, `kind of probe point "${name}"`) as PointKind,
      required: entry.required === 1,
      doc: entry.doc,
    };
  });
}

/** Entries of a section; none where it is missing. */
function readEntries<F extends Fields>(elf: ElfFile, name: string, layout: Struct<F>): ValuesOf<Struct<F>>[] {
  const found = elf.sections.filter((section) => section.name === name);
  const [section] = found;
  if (section === undefined) return [];
  if (found.length > 1) throw elf.bad(`it has ${found.length} sections named ${name}`);
  if (elf.isRelocated(section)) {
    throw elf.bad(
      `${name} holds addresses that are filled in when it is loaded; descriptors have to be constants`,
    );
  }
  const raw = elf.contents(section);
  if (raw.length !== section.size) throw elf.bad(`${name} takes no room in the file`);
  if (raw.length % layout.size !== 0) {
    throw elf.bad(
      `${name} of ${raw.length} bytes is no multiple of ${layout.size}; rebuild it with the current vesper/probe.h`,
    );
  }
  const count = raw.length / layout.size;
  if (count > entriesMax) throw elf.bad(`${name} has ${count} entries; at most ${entriesMax} make sense`);
  return Array.from({ length: count }, (_, index) => decode(layout, raw, index * layout.size));
}

function zero(elf: ElfFile, reserved: number, what: string): void {
  if (reserved !== 0) throw elf.bad(`${what} uses a reserved field; it was made for a newer host`);
}
