// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VesperError } from '../../host/error.ts';
import type { ProbeDeclaration } from '../../host/probe/declaration.ts';
import { readDeclaration } from '../../host/probe/descriptors.ts';
import { ElfFile } from '../../host/probe/elf.ts';
import { parseImage } from '../../host/probe/image.ts';
import { eventDescriptor, fieldDescriptor, sections } from '../../host/wire/descriptor.ts';
import { builtModules } from '../fixtures/built-probes.ts';
import {
  comm,
  type Descriptors,
  descriptorSections,
  elf,
  event,
  moduleImage,
  pid,
  point,
  probe,
} from '../fixtures/module-image.ts';

const declarationOf = (parts: Descriptors) =>
  readDeclaration(new ElfFile(elf(descriptorSections(parts)), 'a.ko'));
const eventOf = (parts: Descriptors) => declarationOf(parts)?.events[0];

describe('descriptors', () => {
  it('become a declaration', () => {
    expect(declarationOf({})).toEqual({
      name: 'fixture',
      doc: 'A probe for tests.',
      events: [
        {
          id: 1,
          name: 'died',
          severity: 'critical',
          doc: 'Something died.',
          payloadBytes: 24,
          fields: [
            {
              name: 'pid',
              type: 'u32',
              offset: 0,
              size: 4,
              role: 'pid',
              unit: 'none',
              doc: 'process',
              values: undefined,
            },
            {
              name: 'comm',
              type: 'text',
              offset: 8,
              size: 16,
              role: 'comm',
              unit: 'none',
              doc: 'its name',
              values: undefined,
            },
          ],
        },
      ],
      points: [{ name: 'do_exit', kind: 'kprobe', required: true, doc: 'end of a task' }],
    });
  });

  it('may be missing: the module is no probe, but can be loaded', () => {
    expect(readDeclaration(new ElfFile(elf([]), 'a.ko'))).toBeUndefined();
  });

  it('keep the order of the source', () => {
    const second = { ...event, id: 7, name: 'aged' };
    const declared = declarationOf({
      events: [second, event],
      fields: [pid, { ...pid, event: 7, offset: 4, name: 'b' }, { ...pid, event: 7, name: 'z' }],
      points: [point, { ...point, name: 'a_point' }],
    });
    expect(declared?.events.map(({ name }) => name)).toEqual(['aged', 'died']);
    expect(declared?.points.map(({ name }) => name)).toEqual(['do_exit', 'a_point']);
    expect(declared?.events[0]?.fields.map(({ name }) => name)).toEqual(['z', 'b']);
  });

  it('give names to values, as the field reads them', () => {
    const value = { kind: 1, set: 'result' };
    const values = [
      { ...value, value: 0xffff_ffff_ffff_ffffn, name: 'failed' },
      { ...value, value: 9n, name: 'preferred' },
      { ...value, value: 9n, name: 'other name' },
      { ...value, value: 0x1_0000_0000n, name: 'too large' },
    ];
    const signed = eventOf({ fields: [{ ...pid, type: 7, role: 1, values: 'result' }], values });
    expect(signed?.fields[0]?.values).toEqual({
      name: 'result',
      kind: 'enum',
      values: [
        { value: -1n, name: 'failed' },
        { value: 9n, name: 'preferred' },
        { value: 9n, name: 'other name' },
      ],
    });
    const unsigned = eventOf({ fields: [{ ...pid, values: 'result' }], values });
    expect(unsigned?.fields[0]?.values?.values[0]).toEqual({ value: 0xffff_ffffn, name: 'failed' });
  });

  it('leave out flags without bits: the kernel was configured without them', () => {
    const flag = { kind: 2, set: 'gfp' };
    const declared = eventOf({
      fields: [{ ...pid, role: 0, values: 'gfp' }],
      values: [
        { ...flag, value: 0n, name: '__GFP_NOTHING' },
        { ...flag, value: 0x40n, name: '__GFP_IO' },
      ],
    });
    expect(declared?.fields[0]?.values).toEqual({
      name: 'gfp',
      kind: 'flag',
      values: [{ value: 0x40n, name: '__GFP_IO' }],
    });
  });
});

describe('impossible descriptors are refused', () => {
  const value = { kind: 1, set: 'result', value: 1n, name: 'one' };
  it.each<[string, Descriptors]>([
    ['has the id 0', { events: [{ ...event, id: 0 }], fields: [] }],
    ['it declares event id 1 twice', { events: [event, { ...event, name: 'x' }] }],
    ['it declares event name "died" twice', { events: [event, { ...event, id: 2 }] }],
    [
      'has a payload of 993 bytes; a record holds at most 992',
      { events: [{ ...event, payload_bytes: 993 }] },
    ],
    ['the severity of event "died" is 9', { events: [{ ...event, severity: 9 }] }],
    ['event "died" uses a reserved field', { events: [{ ...event, reserved: 1 }] }],
    ['"di ed" is no name for a event', { events: [{ ...event, name: 'di ed' }] }],
    ['"__proto__" is no name', { events: [{ ...event, name: '__proto__' }] }],
    ['"" is no name for a field', { fields: [{ ...pid, name: '' }] }],
    [
      'field "pid" of event "died" ends at byte 28 of a payload of 24 bytes',
      { fields: [{ ...pid, offset: 24 }] },
    ],
    ['ends at byte 65536 of a payload', { fields: [{ ...comm, offset: 65520 }] }],
    [
      'field "comm" of event "died" at byte 2 overlaps "pid", which ends at byte 4',
      { fields: [{ ...comm, offset: 2 }, pid] },
    ],
    ['it declares field "pid" of event "died" twice', { fields: [pid, { ...pid, offset: 4 }] }],
    ['belongs to event 2, which is not declared', { fields: [{ ...pid, event: 2 }] }],
    ['the type of field "pid" of event "died" is 77', { fields: [{ ...pid, type: 77 }] }],
    ['the role of field "pid" of event "died" is 77', { fields: [{ ...pid, role: 77 }] }],
    ['the unit of field "pid" of event "died" is 77', { fields: [{ ...pid, unit: 77 }] }],
    ['has 8 bytes, its type u32 has 4 (arrays of numbers', { fields: [{ ...pid, size: 8 }] }],
    ['at byte 2 is not aligned to its size', { fields: [{ ...pid, offset: 2 }] }],
    ['is a text of 0 bytes', { fields: [{ ...comm, size: 0 }] }],
    ['is text and cannot have the role value', { fields: [{ ...comm, role: 2 }] }],
    ['is a number and cannot have the role comm', { fields: [{ ...pid, role: 5 }] }],
    ['takes its names from set "none", which is not declared', { fields: [{ ...pid, values: 'none' }] }],
    ['is text and cannot take names', { fields: [{ ...comm, values: 'result' }], values: [value] }],
    [
      'set "result" mixes values and flags',
      { values: [value, { ...value, kind: 2, value: 2n, name: 'two' }] },
    ],
    ['the kind of set "result" is 3', { values: [{ ...value, kind: 3 }] }],
    ['it declares value "one" of set "result" twice', { values: [value, { ...value, value: 2n }] }],
    ['"" is no name for a value', { values: [{ ...value, name: '' }] }],
    ['the kind of probe point "do_exit" is 9', { points: [{ ...point, kind: 9 }] }],
    ['has 2 where 0 or 1 is expected', { points: [{ ...point, required: 2 }] }],
    ['it declares probe point "do_exit" of kind 1 twice', { points: [point, point] }],
    [
      'it has 33 probe points',
      { points: Array.from({ length: 33 }, (_, at) => ({ ...point, name: `p${at}` })) },
    ],
    ['it declares 2 probes', { probe: [probe, probe] }],
    [
      'descriptors are of version 2, this host reads version 1; upgrade the host',
      { probe: [{ ...probe, version: 2 }] },
    ],
    ['rebuild it with the current vesper/probe.h', { probe: [{ ...probe, version: 0 }] }],
    ['it has descriptors but no .vesper.probe section', { probe: [] }],
  ])('%s', (reason, parts) => {
    expect(() => declarationOf(parts)).toThrow(reason);
  });

  const events = { name: sections.events, bytes: new Uint8Array(eventDescriptor.size), flags: 2 };
  const own = descriptorSections({});
  it.each([
    ['has 2 sections named .vesper.events', [...own, events]],
    [
      '.vesper.fields of 7 bytes is no multiple',
      [...own.slice(0, 2), { ...events, name: sections.fields, bytes: new Uint8Array(7) }],
    ],
    [
      '.vesper.probe holds addresses',
      [...own, { name: '.rela', bytes: new Uint8Array(24), type: 4, info: 1 }],
    ],
    [
      '.vesper.probe takes no room in the file',
      [{ ...own[0], name: sections.probe, bytes: new Uint8Array(256), type: 8 }],
    ],
    [
      '.vesper.fields has 8193 entries',
      [
        ...own.slice(0, 2),
        { ...events, name: sections.fields, bytes: new Uint8Array(fieldDescriptor.size * 8193) },
      ],
    ],
  ])('%s', (reason, all) => {
    expect(() => readDeclaration(new ElfFile(elf(all), 'a.ko'))).toThrow(reason);
  });
});

/** What everything above relies on. */
function isSound({ events }: ProbeDeclaration): boolean {
  return events.every(({ fields, payloadBytes }) => {
    let end = 0;
    return (
      payloadBytes <= 992 &&
      fields.every(({ offset, size }) => {
        const fits = offset >= end && size > 0 && offset + size <= payloadBytes;
        end = offset + size;
        return fits;
      })
    );
  });
}

describe('hostile descriptors', () => {
  it.each<readonly [string, Uint8Array]>([
    ['made of tables', moduleImage()],
    ...[...builtModules('signal'), ...builtModules('oom')].map(
      (path) => [path, new Uint8Array(readFileSync(path))] as const,
    ),
  ])('mutated from those %s give a sound declaration or none', (_name, original) => {
    const file = new ElfFile(original, 'a.ko');
    const ranges = file.sections.filter(({ name }) => name.startsWith('.vesper.'));
    expect(ranges).not.toHaveLength(0);
    const change = fc.tuple(
      fc.nat(ranges.length - 1),
      fc.nat(),
      fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 255)),
    );
    let sound = 0;
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), (changes) => {
        const bytes = original.slice();
        for (const [range, at, value] of changes) {
          const { offset = 0, size = 1 } = ranges[range] ?? {};
          bytes[offset + (at % size)] = value;
        }
        try {
          const { declaration } = parseImage(bytes, 'fuzz.ko');
          expect(declaration && isSound(declaration)).toBe(true);
          sound++;
        } catch (error) {
          if (!(error instanceof VesperError) || error.code !== 'BAD_IMAGE') throw error;
        }
      }),
      { numRuns: 1500 },
    );
    expect(sound).toBeGreaterThan(0);
  });
});

describe('the probes of this project', () => {
  it.each(builtModules('signal'))('%s declares deliveries and deaths', (path) => {
    const { declaration, parameters } = parseImage(readFileSync(path), path);
    expect(declaration?.name).toBe('signal');
    expect(declaration?.events.map(({ name, severity }) => [name, severity])).toEqual([
      ['delivered', 'info'],
      ['died', 'critical'],
    ]);
    const names = declaration?.events[1]?.fields.find(({ name }) => name === 'signal')?.values?.values;
    expect(names).toContainEqual({ value: 11n, name: 'SIGSEGV' });
    expect(parameters.map(({ name }) => name)).toEqual(['comm', 'signals']);
  });

  it.each(builtModules('oom'))('%s declares the kill with its memory', (path) => {
    const { declaration } = parseImage(readFileSync(path), path);
    expect(declaration?.events.map(({ name }) => name)).toEqual(['kill', 'gone']);
    const gfp = declaration?.events[0]?.fields.find(({ name }) => name === 'gfp')?.values;
    expect(gfp?.kind).toBe('flag');
  });
});
