// SPDX-License-Identifier: Apache-2.0

/** Names of metrics, made of the names that probes declare. */

import type { FieldDeclaration, Unit } from '../../probe/declaration.ts';
import type { Bounds } from './histogram.ts';

/** How values of a unit are shown: in base units. */
interface Scale {
  readonly suffix: string;
  /** How field names of this unit end; the suffix stands instead. */
  readonly ending: RegExp;
  readonly factor: number;
  readonly bounds: Bounds;
}

/** Of x86-64; other architectures have no frontend. */
const pageBytes = 4096;
const bytes = { suffix: '_bytes', bounds: Array.from({ length: 13 }, (_, power) => pageBytes * 4 ** power) };
const numbers = { suffix: '', ending: /$/, factor: 1, bounds: [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e9] };

const scales: Readonly<Record<Unit, Scale>> = {
  nanoseconds: {
    suffix: '_seconds',
    ending: /_(ns|nanoseconds)$/,
    factor: 1e-9,
    bounds: [1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60],
  },
  bytes: { ...bytes, ending: /_bytes$/, factor: 1 },
  pages: { ...bytes, ending: /_pages$/, factor: pageBytes },
  count: numbers,
  none: numbers,
};

export const scaleOf = (field: FieldDeclaration): Scale => scales[field.unit];

const word = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9_]/g, '_');

export const counterName = (probe: string, event: string): string =>
  `vesper_${word(probe)}_${word(event)}_total`;

export function valueName(probe: string, event: string, field: FieldDeclaration): string {
  const { suffix, ending } = scaleOf(field);
  const name = `vesper_${word(probe)}_${word(event)}_${word(field.name).replace(ending, '')}${suffix}`;
  // Endings that mean something else in a metric.
  return /_(total|count|sum|bucket)$/.test(name) ? `${name}_value` : name;
}

/** Labels that VESPER itself puts on every series, or that histograms need, are not left to a field of that name. */
export const labelName = ({ name }: FieldDeclaration): string =>
  name === 'guest' || name === 'le' ? `event_${name}` : name;

/** Two probes may mean different things by names that come to the same: each keeps a name of its own. */
export class MetricNames {
  readonly #owners = new Map<string, string>();

  constructor(taken: readonly string[]) {
    for (const name of taken) this.#owners.set(name, '');
  }

  claim(wished: string, owner: string): string {
    for (let number = 1; ; number += 1) {
      const name = number === 1 ? wished : wished.replace(/(_total)?$/, `_${number}$1`);
      const present = this.#owners.get(name);
      if (present === undefined) this.#owners.set(name, owner);
      if (present === undefined || present === owner) return name;
    }
  }
}
