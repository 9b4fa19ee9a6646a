// SPDX-License-Identifier: Apache-2.0

/** The types of module parameters, and which text the kernel's parser for each takes. Source: kernel/params.c. */

export type Checked = { readonly value: string } | { readonly problem: string };

/** Bits and sign; `long` is 64 bits on every machine that is supported. */
const integers: Readonly<Record<string, { readonly bits: number; readonly signed: boolean }>> = {
  byte: { bits: 8, signed: false },
  short: { bits: 16, signed: true },
  ushort: { bits: 16, signed: false },
  int: { bits: 32, signed: true },
  uint: { bits: 32, signed: false },
  hexint: { bits: 32, signed: false },
  long: { bits: 64, signed: true },
  ulong: { bits: 64, signed: false },
  ullong: { bits: 64, signed: false },
};

/** kernel/params.c param_set_charp(): one more is -ENOSPC. */
const textMax = 1024;

const yes = /^(y|yes|true|on|1)$/i;
const no = /^(n|no|false|off|0)$/i;

/**
 * The value as it is given to the kernel, or what is wrong with it. A type that is not known here (a probe's own) takes
 * any text: the probe judges.
 */
export function canonicalValue(type: string, value: string): Checked {
  const element = /^array of (.+)$/.exec(type)?.[1];
  if (element !== undefined) return arrayValue(element, value);
  const integer = integers[type];
  if (integer !== undefined) return integerValue(integer.bits, integer.signed, value);
  switch (type) {
    case 'bool':
    case 'invbool':
    case 'bint':
      // What kernels take beyond y, n, 0 and 1 differs between versions.
      if (yes.test(value)) return { value: 'Y' };
      return no.test(value) ? { value: 'N' } : { problem: 'write yes or no' };
    case 'charp':
      return Buffer.byteLength(value) > textMax
        ? { problem: `it is longer than ${textMax} bytes` }
        : { value };
    default:
      return { value };
  }
}

function arrayValue(element: string, value: string): Checked {
  const values: string[] = [];
  for (const part of value.split(',')) {
    const checked = canonicalValue(element, part);
    if ('problem' in checked) return { problem: `"${part}": ${checked.problem}` };
    values.push(checked.value);
  }
  return { value: values.join(',') };
}

/** As kstrtoint() and its kin with base 0: decimal, 0x…, or octal with a leading 0; one sign. */
function integerValue(bits: number, signed: boolean, value: string): Checked {
  const match = /^([+-]?)(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)$/i.exec(value);
  if (match === null) return { problem: 'write a whole number, as 42, 0x2a or 052' };
  const digits = match[2] as string;
  const magnitude = BigInt(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  const number = match[1] === '-' ? -magnitude : magnitude;
  const least = signed ? -(1n << BigInt(bits - 1)) : 0n;
  const most = (1n << BigInt(signed ? bits - 1 : bits)) - 1n;
  if (number < least || number > most) return { problem: `it goes from ${least} to ${most}` };
  return match[1] === '-' && number === 0n && !signed ? { value: digits } : { value };
}
