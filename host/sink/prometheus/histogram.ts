// SPDX-License-Identifier: Apache-2.0

import type { Labels, Sample } from './page.ts';

/** Upper bounds of buckets, ascending; the last bucket has none. */
export type Bounds = readonly number[];

/** How many samples a histogram takes on the page. */
export const samplesOf = (bounds: Bounds): number => bounds.length + 3;

export class Histogram {
  readonly bounds: Bounds;
  /** Not cumulative. */
  readonly #counts: Float64Array;
  #sum = 0;

  constructor(bounds: Bounds) {
    this.bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds } = this;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] as number)) bucket += 1;
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
    this.#sum += value;
  }

  /** Takes in what another one with the same bounds counted. */
  add(other: Histogram): void {
    for (let bucket = 0; bucket < this.#counts.length; bucket += 1)
      this.#counts[bucket] = (this.#counts[bucket] as number) + (other.#counts[bucket] ?? 0);
    this.#sum += other.#sum;
  }

  samples(labels: Labels): readonly Sample[] {
    let count = 0;
    const buckets = Array.from(this.#counts, (counted, bucket): Sample => {
      count += counted;
      const le = bucket < this.bounds.length ? String(this.bounds[bucket]) : '+Inf';
      return { labels: { ...labels, le }, value: count, suffix: '_bucket' };
    });
    return [
      ...buckets,
      { labels, value: this.#sum, suffix: '_sum' },
      { labels, value: count, suffix: '_count' },
    ];
  }
}
