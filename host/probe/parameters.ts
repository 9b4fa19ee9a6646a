// SPDX-License-Identifier: Apache-2.0

/**
 * Parameters for a probe: what people write (`name=value`, `probe.name=value`) → the argument string of init_module.
 * The kernel only warns about an unknown parameter and says -EINVAL for a bad one, so both are refused here, with the
 * reason. Source for what it takes: lib/cmdline.c next_arg(), kernel/params.c, lib/kstrtox.c.
 */

import { VesperError } from '../error.ts';
import { limits } from '../wire/message.ts';
import { type ParameterDeclaration, type ProbeImage, probeName } from './declaration.ts';
import { canonicalValue } from './parameter-types.ts';

/** By name as the module declares it. */
export type ParameterValues = Readonly<Record<string, string>>;

type Parametrised = Pick<ProbeImage, 'name' | 'declaration' | 'parameters'>;

/**
 * Shares out `name=value` and `probe.name=value` among the probes that are attached together. A value without a probe
 * goes to each of them that has such a parameter. Returns what each probe gets, by probe name. Throws USAGE where nobody
 * has the parameter.
 */
export function assignParameters(
  images: readonly Parametrised[],
  assignments: readonly string[],
): ReadonlyMap<string, ParameterValues> {
  const values = new Map<string, Record<string, string>>(
    images.map((image) => [probeName(image), Object.create(null)]),
  );
  for (const assignment of assignments) {
    const { probe, name, value } = parseAssignment(assignment);
    const meant = images.filter(
      (image) => probe === undefined || probe === probeName(image) || probe === image.name,
    );
    if (meant.length === 0) {
      const names = images.map(probeName).join(', ');
      throw new VesperError(
        'USAGE',
        `"${assignment}" is for probe ${probe}, which is not attached here (${names}).`,
      );
    }
    const takers = meant.filter((image) => findParameter(image, name) !== undefined);
    if (takers.length === 0) throw unknownParameter(meant, name);
    for (const taker of takers) {
      const declared = findParameter(taker, name) as ParameterDeclaration;
      const own = values.get(probeName(taker)) as Record<string, string>;
      if (declared.name in own)
        throw new VesperError('USAGE', `Parameter ${probeName(taker)}.${declared.name} is given twice.`);
      own[declared.name] = value;
    }
  }
  return values;
}

/**
 * The argument string for one probe. Throws USAGE for an unknown parameter, a value of the wrong type, or one that the
 * kernel cannot be given.
 */
export function argumentString(image: Parametrised, values: ParameterValues): string {
  const parts = Object.entries(values).map(([name, value]) => {
    const declared = findParameter(image, name);
    if (declared === undefined) throw unknownParameter([image], name);
    return `${declared.name}=${quoted(image, declared.name, checkedValue(image, declared, value))}`;
  });
  const args = parts.join(' ');
  const bytes = Buffer.byteLength(args);
  if (bytes > limits.ARGS_MAX.value) {
    throw new VesperError(
      'USAGE',
      `The parameters of probe ${probeName(image)} take ${bytes} bytes; a guest takes at most ${limits.ARGS_MAX.value}.`,
    );
  }
  return args;
}

interface Assignment {
  readonly probe: string | undefined;
  readonly name: string;
  readonly value: string;
}

function parseAssignment(text: string): Assignment {
  const match = /^(?:([\w-]+)\.)?([\w-]+)=(.*)$/s.exec(text);
  if (match === null) {
    throw new VesperError('USAGE', `"${text}" is no parameter: write name=value or probe.name=value.`);
  }
  return { probe: match[1], name: match[2] as string, value: match[3] as string };
}

/** As in the kernel, `-` and `_` are the same in names. */
function findParameter(image: Parametrised, name: string): ParameterDeclaration | undefined {
  const spelled = name.replaceAll('-', '_');
  return image.parameters.find((parameter) => parameter.name.replaceAll('-', '_') === spelled);
}

function unknownParameter(images: readonly Parametrised[], name: string): VesperError {
  const probes = images.map(probeName).join(', ');
  const known = [
    ...new Set(images.flatMap(({ parameters }) => parameters.map((parameter) => parameter.name))),
  ];
  return new VesperError(
    'USAGE',
    `Probe ${probes} has no parameter ${name}; ` +
      (known.length > 0 ? `it has ${known.join(', ')}.` : 'it has none at all.'),
    { data: { probes, parameter: name, known } },
  );
}

function checkedValue(image: Parametrised, { name, type }: ParameterDeclaration, value: string): string {
  const checked = canonicalValue(type, value);
  if ('value' in checked) return checked.value;
  throw new VesperError(
    'USAGE',
    `Parameter ${probeName(image)}.${name} (${type}) cannot be "${shortened(value)}": ${checked.problem}.`,
    {
      data: { probe: probeName(image), parameter: name, type, value },
    },
  );
}

/** For a sentence that people read. */
const shortened = (value: string): string => (value.length > 64 ? `${value.slice(0, 60)}…` : value);

/** Values with blanks go into double quotes; the kernel knows no escape, so a quote or a control character has no way in. */
function quoted(image: Parametrised, name: string, value: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/["\u0000-\u001f\u007f]/.test(value)) {
    throw new VesperError(
      'USAGE',
      `Parameter ${probeName(image)}.${name} holds a double quote or a control character, which the kernel cannot be given.`,
      { data: { probe: probeName(image), parameter: name } },
    );
  }
  return /^[\x21-\x7e]*$/.test(value) ? value : `"${value}"`;
}
