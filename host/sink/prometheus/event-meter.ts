// SPDX-License-Identifier: Apache-2.0

/** Counts the events of one kind of one guest as their declaration says: fields that are labels, fields that are values. */

import type { PayloadRows } from '../../relay/batch.ts';
import type { EventDecoder, FieldDecoder } from '../../relay/decoder.ts';
import { type Bounds, type Histogram, samplesOf } from './histogram.ts';
import { LabelTable } from './label-table.ts';
import { labelName, scaleOf } from './metric-names.ts';
import { labelText, type Series, type SeriesSet } from './series.ts';

/** Samples that one guest's events of one kind may take on the page, and the series that are allowed whatever that comes to. */
const mostSamples = 2_048;
const mostSeries = 256;
const fewestSeries = 16;

interface ValueField {
  readonly decoder: FieldDecoder;
  readonly name: string;
  readonly factor: number;
  readonly bounds: Bounds;
}

/** What a row is counted in. */
interface Tally {
  readonly series: Series;
  /** One for each of the value fields. */
  readonly histograms: readonly Histogram[];
}

export const labelNamesOf = ({ fields }: EventDecoder): readonly string[] =>
  labelFields(fields).map(({ declaration }) => labelName(declaration));

const labelFields = (fields: readonly FieldDecoder[]): readonly FieldDecoder[] =>
  fields.filter(({ declaration }) => declaration.role === 'label');

const valueFields = (fields: readonly FieldDecoder[]): readonly FieldDecoder[] =>
  fields.filter(({ declaration: { role, type } }) => role === 'value' && type !== 'text');

/** Of a new set for events with that declaration. */
export function seriesLimit({ fields }: EventDecoder): number {
  let samples = 1;
  for (const { declaration } of valueFields(fields)) samples += samplesOf(scaleOf(declaration).bounds);
  return labelFields(fields).length === 0
    ? 1
    : Math.min(mostSeries, Math.max(fewestSeries, Math.floor(mostSamples / samples)));
}

export class EventMeter {
  readonly #values: readonly ValueField[];
  readonly #table: LabelTable<Tally>;

  /** `nameOf` names the metric of a value. */
  constructor(decoder: EventDecoder, set: SeriesSet, nameOf: (field: FieldDecoder) => string) {
    const labels = labelFields(decoder.fields);
    this.#values = valueFields(decoder.fields).map((field) => {
      const { factor, bounds } = scaleOf(field.declaration);
      return { decoder: field, name: nameOf(field), factor, bounds };
    });
    // Texts that differ in bytes may come to the same label: more keys than series.
    this.#table = new LabelTable(
      labels.map(({ declaration }) => declaration),
      2 * set.limit,
      (rows, row) => this.#tally(set.of(labels.map((field) => labelText(field.show(rows, row))))),
      this.#tally(set.folded),
    );
  }

  /** Of a row that fits the declaration. */
  count(rows: PayloadRows, row: number): void {
    const { series, histograms } = this.#table.at(rows, row);
    series.count += 1;
    for (let at = 0; at < histograms.length; at += 1) {
      const { decoder, factor } = this.#values[at] as ValueField;
      (histograms[at] as Histogram).observe(Number(decoder.read(rows, row)) * factor);
    }
  }

  #tally(series: Series): Tally {
    return { series, histograms: this.#values.map(({ name, bounds }) => series.histogram(name, bounds)) };
  }
}
