// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VesperError } from '../../host/error.ts';
import { argumentString, assignParameters } from '../../host/probe/parameters.ts';

const probe = (name: string, types: Readonly<Record<string, string>>) => ({
  name,
  declaration: undefined,
  parameters: Object.entries(types).map(([parameter, type]) => ({ name: parameter, type, doc: '' })),
});

const signal = probe('signal', { signals: 'charp', comm: 'charp', limit_ms: 'uint' });
const oom = probe('oom', { comm: 'charp', all: 'bool' });

const usage = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(VesperError);
    expect((error as VesperError).exitStatus).toBe(2);
    return (error as VesperError).message;
  }
  throw new Error('it was taken');
};

describe('parameters for several probes', () => {
  it('go to each probe that has them, or to the one that is named', () => {
    const values = assignParameters([signal, oom], ['comm=nginx', 'oom.all=yes', 'signal.signals=a=b,c']);
    expect(values.get('signal')).toEqual({ comm: 'nginx', signals: 'a=b,c' });
    expect(values.get('oom')).toEqual({ comm: 'nginx', all: 'yes' });
  });

  it('are spelled with - or _, as the kernel allows', () => {
    expect(assignParameters([signal], ['limit-ms=5']).get('signal')).toEqual({ limit_ms: '5' });
  });

  it('may name the probe as it declares itself, or its module', () => {
    const declared = {
      ...signal,
      name: 'vesper_signal',
      declaration: { name: 'signal', doc: '', events: [], points: [] },
    };
    for (const name of ['signal', 'vesper_signal']) {
      expect(assignParameters([declared], [`${name}.comm=x`]).get('signal')).toEqual({ comm: 'x' });
    }
  });

  it.each([
    ['nothing', '"nothing" is no parameter: write name=value or probe.name=value.'],
    ['=5', '"=5" is no parameter'],
    ['hue=5', 'Probe signal, oom has no parameter hue; it has signals, comm, limit_ms, all.'],
    ['oom.signals=5', 'Probe oom has no parameter signals; it has comm, all.'],
    ['disk.comm=5', '"disk.comm=5" is for probe disk, which is not attached here (signal, oom).'],
  ])('%s is refused', (assignment, message) => {
    expect(usage(() => assignParameters([signal, oom], [assignment]))).toContain(message);
  });

  it('are refused when given twice', () => {
    expect(usage(() => assignParameters([oom], ['comm=a', 'oom.comm=b']))).toBe(
      'Parameter oom.comm is given twice.',
    );
  });

  it('of a probe that has none are refused', () => {
    expect(usage(() => assignParameters([probe('bare', {})], ['x=1']))).toContain('it has none at all');
  });
});

describe('the argument string', () => {
  const argumentFor = (type: string, value: string) => argumentString(probe('p', { x: type }), { x: value });

  it.each([
    ['int', '-42', 'x=-42'],
    ['int', '2147483647', 'x=2147483647'],
    ['uint', '0xFF', 'x=0xFF'],
    ['uint', '-0', 'x=0'],
    ['byte', '0377', 'x=0377'],
    ['ulong', '18446744073709551615', 'x=18446744073709551615'],
    ['long', '-9223372036854775808', 'x=-9223372036854775808'],
    ['bool', 'yes', 'x=Y'],
    ['bool', 'Off', 'x=N'],
    ['bint', '1', 'x=Y'],
    ['array of uint', '1,2,0x3', 'x=1,2,0x3'],
    ['charp', 'plain', 'x=plain'],
    ['charp', '', 'x='],
    ['charp', 'two words', 'x="two words"'],
    ['charp', "it's=fine", "x=it's=fine"],
    ['charp', 'naïve', 'x="naïve"'],
    ['string', 'x y', 'x="x y"'],
    ['', 'whatever', 'x=whatever'],
  ])('%s %s', (type, value, expected) => {
    expect(argumentFor(type, value)).toBe(expected);
  });

  it.each([
    ['int', '2147483648', 'it goes from -2147483648 to 2147483647'],
    ['uint', '-1', 'it goes from 0 to 4294967295'],
    ['byte', '256', 'it goes from 0 to 255'],
    ['ullong', '18446744073709551616', 'it goes from 0 to'],
    ['int', '', 'write a whole number'],
    ['int', '1.5', 'write a whole number'],
    ['int', '09', 'write a whole number'],
    ['int', '0x', 'write a whole number'],
    ['int', '5 ', 'write a whole number'],
    ['int', '1\n', 'write a whole number'],
    ['bool', 'maybe', 'write yes or no'],
    ['array of int', '1,,2', '"": write a whole number'],
    ['charp', 'x'.repeat(1025), 'it is longer than 1024 bytes'],
    ['charp', 'say "hi"', 'holds a double quote or a control character'],
    ['charp', 'two\nlines', 'holds a double quote or a control character'],
    ['charp', 'nul\0', 'holds a double quote or a control character'],
  ])('%s %j is refused', (type, value, message) => {
    expect(usage(() => argumentFor(type, value))).toContain(message);
  });

  it('is refused when it is longer than a guest takes', () => {
    const many = probe('p', Object.fromEntries(['a', 'b', 'c', 'd', 'e'].map((name) => [name, 'charp'])));
    const values = Object.fromEntries(['a', 'b', 'c', 'd', 'e'].map((name) => [name, 'x'.repeat(1000)]));
    expect(usage(() => argumentString(many, values))).toContain(
      'take 5014 bytes; a guest takes at most 4096',
    );
  });

  it('of nothing is empty', () => {
    expect(argumentString(signal, {})).toBe('');
  });

  it('is split by the kernel into what was given', () => {
    const names = ['a', 'b_c', 'd'];
    const image = probe('p', Object.fromEntries(names.map((name) => [name, 'charp'])));
    const value = fc.string({ unit: fc.constantFrom(..."az=, '\\-_#$%é日"), maxLength: 12 });
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.constantFrom(...names)),
        fc.array(value, { minLength: 3, maxLength: 3 }),
        (given, values) => {
          const wanted = Object.fromEntries(given.map((name, at) => [name, values[at] as string]));
          expect(kernelSplit(argumentString(image, wanted))).toEqual(wanted);
        },
      ),
    );
  });
});

/** lib/cmdline.c next_arg() in a loop, as parse_args() calls it; the kernel's isspace() also takes byte 0xa0. */
function kernelSplit(text: string): Record<string, string> {
  const isSpace = (byte: number | undefined) =>
    byte === 0x20 || byte === 0xa0 || (byte !== undefined && byte >= 9 && byte <= 13);
  const args = Buffer.from(text);
  const found: Record<string, string> = {};
  for (let start = 0; start < args.length; ) {
    while (isSpace(args[start])) start++;
    let end = start;
    let equals = 0;
    let inQuote = false;
    for (; end < args.length && (inQuote || !isSpace(args[end])); end++) {
      if (equals === 0 && args[end] === 0x3d) equals = end;
      if (args[end] === 0x22) inQuote = !inQuote;
    }
    let value = args.subarray(equals + 1, end);
    if (value[0] === 0x22) value = value.subarray(1, value.at(-1) === 0x22 ? -1 : undefined);
    found[args.toString('utf8', start, equals)] = value.toString('utf8');
    start = end + 1;
  }
  return found;
}
