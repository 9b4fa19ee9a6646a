// SPDX-License-Identifier: Apache-2.0

/**
 * What one guest's events of one kind amount to, by the values of their labels. The guest chooses those, so their number is bounded:
 * what comes when there are `limit` of them is folded into one series whose labels all say `other`.
 */

import type { FieldValue } from '../../relay/decoder.ts';
import { type Bounds, Histogram } from './histogram.ts';

/** What a label says where the values were too many to have a series each. */
export const otherValue = 'other';

const longestLabel = 128;

/** A decoded value as that of a label: control characters are escaped already, what is too long is cut. */
export function labelText(value: FieldValue): string {
  const text = String(value);
  return text.length <= longestLabel ? text : `${text.slice(0, longestLabel - 1).toWellFormed()}…`;
}

export class Series {
  readonly labels: readonly string[];
  /** Events. */
  count = 0;
  /** By the name of the metric. */
  readonly histograms = new Map<string, Histogram>();

  constructor(labels: readonly string[]) {
    this.labels = labels;
  }

  histogram(name: string, bounds: Bounds): Histogram {
    const histogram = this.histograms.get(name) ?? new Histogram(bounds);
    this.histograms.set(name, histogram);
    return histogram;
  }

  add(other: Series): this {
    this.count += other.count;
    for (const [name, theirs] of other.histograms) this.histogram(name, theirs.bounds).add(theirs);
    return this;
  }
}

export class SeriesSet {
  readonly limit: number;
  /** Into which the events go that came when the limit was reached. */
  readonly folded: Series;
  readonly #byLabels = new Map<string, Series>();

  constructor(labelCount: number, limit: number) {
    this.limit = limit;
    this.folded = new Series(Array.from({ length: labelCount }, () => otherValue));
  }

  get size(): number {
    return this.#byLabels.size;
  }

  of(labels: readonly string[]): Series {
    // No label holds a NUL: texts end before it.
    const key = labels.join('\0');
    const known = this.#byLabels.get(key);
    if (known !== undefined) return known;
    if (this.#byLabels.size >= this.limit) return this.folded;
    const series = new Series(labels);
    this.#byLabels.set(key, series);
    return series;
  }

  /** Each combination of labels once: values that really are called `other` go with what was folded. */
  all(): readonly Series[] {
    if (this.folded.count === 0) return [...this.#byLabels.values()];
    const key = this.folded.labels.join('\0');
    const others = new Series(this.folded.labels).add(this.folded);
    const namesake = this.#byLabels.get(key);
    if (namesake !== undefined) others.add(namesake);
    return [...[...this.#byLabels.values()].filter((series) => series !== namesake), others];
  }
}
