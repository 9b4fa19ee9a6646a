// SPDX-License-Identifier: Apache-2.0

/**
 * The page that Prometheus scrapes. The only file that knows prom-client, and it uses no more of it than its text format: what is
 * counted is counted in plain numbers, and read when somebody asks.
 */

import type { Metric, Registry } from 'prom-client';

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly labels: Labels;
  readonly value: number;
  /** Of a histogram. */
  readonly suffix?: '_bucket' | '_sum' | '_count';
}

/** All samples of one metric name. */
export interface Family {
  /** With its unit, and `_total` where it is a counter. */
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly samples: readonly Sample[];
}

export const pageType = 'text/plain; version=0.0.4; charset=utf-8';

/** How long the event loop is held before it has its turn. */
const sliceMs = 5;

/** Samples that become text at once. */
const chunkSamples = 2_000;

/**
 * The families as text, those without samples left out. Between two parts of it the event loop has its turn: each family is
 * true to one moment, the page is not.
 */
export async function renderPage(families: Iterable<Family>): Promise<string> {
  // A service that nobody scrapes does without it.
  const { Registry } = await import('prom-client');
  const registry = new Registry();
  let text = '';
  let since = performance.now();
  for (const family of families) {
    if (family.samples.length === 0) continue;
    for (let from = 0; from < family.samples.length; from += chunkSamples) {
      const part = await textOf(registry, family, from);
      text += from === 0 ? part : withoutHead(part);
      text += '\n';
      if (performance.now() - since < sliceMs) continue;
      await new Promise((resolve) => setImmediate(resolve));
      since = performance.now();
    }
  }
  return text;
}

/** Without the lines HELP and TYPE. */
const withoutHead = (part: string): string => part.slice(part.indexOf('\n', part.indexOf('\n') + 1) + 1);

async function textOf(registry: Registry, family: Family, from: number): Promise<string> {
  const { name, type, help } = family;
  const values = family.samples
    .slice(from, from + chunkSamples)
    .map(({ labels, value, suffix }) => ({ labels, value, metricName: `${name}${suffix ?? ''}` }));
  // A registry takes whatever has a name and gives its values: its own counters would look up labels at each event.
  const metric = { name, get: () => Promise.resolve({ name, type, help, values }) };
  registry.registerMetric(metric as unknown as Metric);
  try {
    return await registry.getSingleMetricAsString(name);
  } finally {
    registry.removeSingleMetric(name);
  }
}
