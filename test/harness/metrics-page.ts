// SPDX-License-Identifier: Apache-2.0

/**
 * Reads a page in Prometheus' text format, and refuses what the format does: metrics without a type, lines nobody can read, a series
 * that is there twice, a family in two places.
 */

export interface PageSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const sampleLine = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const labelPair = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;

export class MetricsPage {
  readonly samples: readonly PageSample[];

  constructor(text: string) {
    if (!text.endsWith('\n')) throw new Error('the last line has no end');
    const types = new Map<string, string>();
    const seen = new Set<string>();
    let family = '';
    this.samples = text
      .split('\n')
      .slice(0, -1)
      .flatMap((line) => {
        const [, kind, name = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
        if (kind === 'TYPE') {
          if (types.has(name)) throw new Error(`${name} is there twice`);
          types.set(name, rest);
          family = name;
        }
        if (kind !== undefined) return [];
        const sample = readSample(line);
        const suffixes = types.get(family) === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
        if (!suffixes.some((suffix) => sample.name === family + suffix))
          throw new Error(`${sample.name} stands among ${family}`);
        const key = `${sample.name} ${JSON.stringify(Object.entries(sample.labels).sort())}`;
        if (seen.has(key)) throw new Error(`twice: ${key}`);
        seen.add(key);
        return [sample];
      });
  }

  /** Those of that name whose labels are as given, among others. */
  all(name: string, labels: Readonly<Record<string, string>> = {}): readonly PageSample[] {
    return this.samples.filter(
      (sample) =>
        sample.name === name &&
        Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
    );
  }

  /** The value of the only one. */
  value(name: string, labels: Readonly<Record<string, string>> = {}): number {
    const [found, other] = this.all(name, labels);
    if (found === undefined || other !== undefined)
      throw new Error(`${this.all(name, labels).length} × ${name} ${JSON.stringify(labels)}`);
    return found.value;
  }

  sum(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.all(name, labels).reduce((sum, { value }) => sum + value, 0);
  }
}

function readSample(line: string): PageSample {
  const [, name, pairs = '', value] = sampleLine.exec(line) ?? [];
  if (name === undefined || value === undefined || (Number.isNaN(Number(value)) && value !== '+Inf'))
    throw new Error(`no sample: ${JSON.stringify(line)}`);
  const labels: Record<string, string> = {};
  labelPair.lastIndex = 0;
  while (labelPair.lastIndex < pairs.length) {
    const pair = labelPair.exec(pairs);
    if (pair === null) throw new Error(`no labels: ${JSON.stringify(line)}`);
    const [, label = '', quoted = ''] = pair;
    if (label in labels) throw new Error(`label ${label} is there twice: ${line}`);
    labels[label] = quoted.replaceAll(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c));
  }
  return { name, labels, value: value === '+Inf' ? Number.POSITIVE_INFINITY : Number(value) };
}
