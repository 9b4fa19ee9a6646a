// SPDX-License-Identifier: Apache-2.0

/**
 * The page that Prometheus scrapes. The only file that knows prom-client, and it uses no more of it than its text format: what is
 * counted is counted in plain numbers, and read when somebody asks.
 */

import { createRequire } from 'node:module';
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
  /** Made as they are asked for, which may be much later than the others. */
  readonly samples: Iterable<Sample>;
}

export const pageType = 'text/plain; version=0.0.4; charset=utf-8';

/** How long the event loop is held before it has its turn. */
const sliceMs = 2;

/** Samples that become text at once. */
const chunkSamples = 250;

/**
 * The families as text, those without samples left out. The event loop has its turn in between: each sample, and each histogram,
 * is true to one moment, the page is not.
 */
export async function renderPage(families: Iterable<Family>): Promise<string> {
  const registry = newRegistry();
  let text = '';
  let since = performance.now();
  for (const family of families) {
    let begun = false;
    for (const samples of chunksOf(family.samples)) {
      const part = await textOf(registry, family, samples);
      text += `${begun ? withoutHead(part) : part}\n`;
      begun = true;
      if (performance.now() - since < sliceMs) continue;
      await new Promise((resolve) => setImmediate(resolve));
      since = performance.now();
    }
  }
  return text;
}

/** Without the rest of prom-client, which takes 15 MiB more and 100 ms to load, of which nothing is used. */
function newRegistry(): Registry {
  const require = createRequire(import.meta.url);
  return new (require('prom-client/lib/registry.js') as new () => Registry)();
}

function* chunksOf(samples: Iterable<Sample>): Generator<readonly Sample[]> {
  let chunk: Sample[] = [];
  for (const sample of samples) {
    chunk.push(sample);
    if (chunk.length < chunkSamples) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}

/** Without the lines HELP and TYPE. */
const withoutHead = (part: string): string => part.slice(part.indexOf('\n', part.indexOf('\n') + 1) + 1);

async function textOf(
  registry: Registry,
  { name, type, help }: Family,
  samples: readonly Sample[],
): Promise<string> {
  const values = samples.map(({ labels, value, suffix }) => ({
    labels,
    value,
    metricName: `${name}${suffix ?? ''}`,
  }));
  // A registry takes whatever has a name and gives its values: its own counters would look up labels at each event.
  const metric = { name, get: () => Promise.resolve({ name, type, help, values }) };
  registry.registerMetric(metric as unknown as Metric);
  try {
    return await registry.getSingleMetricAsString(name);
  } finally {
    registry.removeSingleMetric(name);
  }
}
