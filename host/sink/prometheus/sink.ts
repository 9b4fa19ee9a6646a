// SPDX-License-Identifier: Apache-2.0

/**
 * Events as Prometheus metrics, by what their probes declare: a counter for each event with its label fields, a histogram for each
 * value field, and how long events were under way. Nothing is made per event; labels are decoded when a combination is new.
 */

import type { RelayBatch } from '../../relay/batch.ts';
import type { EventDecoder } from '../../relay/decoder.ts';
import { EventMeter, labelNamesOf, seriesLimit } from './event-meter.ts';
import { Histogram } from './histogram.ts';
import { counterName, MetricNames, valueName } from './metric-names.ts';
import type { Family, Labels, Sample } from './page.ts';
import { type Series, SeriesSet } from './series.ts';

/** What the sink reads of a batch of one guest's events. */
export interface MeteredBatch {
  readonly incarnation: { readonly guest: string; readonly uuid: string };
  readonly length: number;
  readonly columns: RelayBatch;
  probeName(row: number): string;
  /** Undefined where nobody can decode the row. */
  decoder(row: number): EventDecoder | undefined;
  latencyUs(row: number): number;
}

/** Events with the same labels, of one probe and one guest. */
interface Kind {
  readonly probe: string;
  readonly event: string;
  readonly severity: string;
  readonly doc: string;
  /** Of the counter. */
  readonly name: string;
  readonly labelNames: readonly string[];
  readonly set: SeriesSet;
  /** What the values mean, by the name of their metric. */
  readonly valueDocs: Map<string, string>;
}

type Source = () => Iterable<Sample>;

interface Gathered extends Pick<Family, 'name' | 'type' | 'help'> {
  readonly sources: Source[];
}

const latencyBounds = [5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10];
/** A guest writes what times it likes. */
const longestLatencySeconds = 86_400;

class MeteredGuest {
  name = '';
  readonly latency = new Histogram(latencyBounds);
  /** By probe, event and names of labels. */
  readonly kinds = new Map<string, Kind>();
  readonly meters = new WeakMap<EventDecoder, EventMeter>();
}

export class PrometheusSink {
  readonly name = 'prometheus';
  readonly #guests = new Map<string, MeteredGuest>();
  readonly #names: MetricNames;
  readonly #labelOf: (guest: { readonly name: string; readonly uuid: string }) => string;

  /** `labelOf` says what the label `guest` of a guest is; `taken` are names of metrics that no event may have. */
  constructor(
    labelOf: (guest: { readonly name: string; readonly uuid: string }) => string,
    taken: readonly string[] = [],
  ) {
    this.#labelOf = labelOf;
    this.#names = new MetricNames([...taken, ...ownNames]);
  }

  deliver(batch: MeteredBatch): void {
    const { columns, length } = batch;
    const { slot, event, payloadBytes } = columns;
    const guest = this.#guest(batch);
    let meter: EventMeter | undefined;
    let before = -1;
    for (let row = 0; row < length; row += 1) {
      // Rows of one kind come in runs; a row of another length than the last one may not be decodable.
      if (
        before < 0 ||
        slot[row] !== slot[before] ||
        event[row] !== event[before] ||
        payloadBytes[row] !== payloadBytes[before]
      ) {
        const decoder = batch.decoder(row);
        meter = decoder === undefined ? undefined : this.#meter(guest, batch.probeName(row), decoder);
        before = row;
      }
      if (meter === undefined) continue;
      meter.count(columns, row);
      // Clocks differ by as much as their error: what seems to come from the future took no time.
      guest.latency.observe(Math.min(Math.max(batch.latencyUs(row) / 1e6, 0), longestLatencySeconds));
    }
  }

  /** The series of a guest end. Names of metrics stay as they were given. */
  forget(uuid: string): void {
    this.#guests.delete(uuid);
  }

  /** Families of all that came; their samples are read when they are asked for. */
  families(): readonly Family[] {
    const page = new Map<string, Gathered>();
    const family = (name: string, type: Family['type'], help: string): Gathered => {
      const found = page.get(name) ?? { name, type, help, sources: [] };
      page.set(name, found);
      return found;
    };
    for (const name of ownNames) family(name, ownFamilies[name].type, ownFamilies[name].help);
    const own = (name: OwnName, source: Source) => page.get(name)?.sources.push(source);
    for (const [uuid, metered] of this.#guests) {
      const guest = this.#labelOf({ name: metered.name, uuid });
      own('vesper_event_latency_seconds', () => metered.latency.samples({ guest }));
      own('vesper_events_total', () => totals(guest, metered.kinds.values()));
      for (const kind of metered.kinds.values()) {
        const { probe, event, set, labelNames, doc, name, valueDocs } = kind;
        const labels = { guest, probe, event, labels: labelNames.join(',') };
        own('vesper_event_series', () => [{ labels, value: set.size }]);
        own('vesper_event_series_limit', () => [{ labels, value: set.limit }]);
        own('vesper_events_folded_total', () => [{ labels, value: set.folded.count }]);
        family(name, 'counter', `Events ${probe}.${event}: ${doc}`).sources.push(() => counts(guest, kind));
        for (const [value, meaning] of valueDocs)
          family(value, 'histogram', `In events ${probe}.${event}: ${meaning}`).sources.push(() =>
            histograms(guest, kind, value),
          );
      }
    }
    return [...page.values()].map(({ name, type, help, sources }) => ({
      name,
      type,
      help,
      samples: { [Symbol.iterator]: () => concatenated(sources) },
    }));
  }

  #guest({ incarnation: { uuid, guest: name } }: MeteredBatch): MeteredGuest {
    const known = this.#guests.get(uuid);
    if (known?.name === name) return known;
    const guest = known ?? new MeteredGuest();
    guest.name = name;
    this.#guests.set(uuid, guest);
    return guest;
  }

  #meter(guest: MeteredGuest, probe: string, decoder: EventDecoder): EventMeter {
    const known = guest.meters.get(decoder);
    if (known !== undefined) return known;
    const { declaration } = decoder;
    const event = declaration.name;
    const labelNames = labelNamesOf(decoder);
    const key = [probe, event, ...labelNames].join('\0');
    let kind = guest.kinds.get(key);
    if (kind === undefined) {
      kind = {
        probe,
        event,
        severity: declaration.severity,
        doc: declaration.doc,
        name: this.#names.claim(counterName(probe, event), `${probe}\0${event}`),
        labelNames,
        set: new SeriesSet(labelNames.length, seriesLimit(decoder)),
        valueDocs: new Map(),
      };
      guest.kinds.set(key, kind);
    }
    const { set, valueDocs } = kind;
    const meter = new EventMeter(decoder, set, ({ declaration: field }) => {
      const name = this.#names.claim(
        valueName(probe, event, field),
        `${probe}\0${event}\0${field.name}\0${field.unit}`,
      );
      valueDocs.set(name, field.doc);
      return name;
    });
    guest.meters.set(decoder, meter);
    return meter;
  }
}

type OwnName =
  | 'vesper_events_total'
  | 'vesper_event_latency_seconds'
  | 'vesper_event_series'
  | 'vesper_event_series_limit'
  | 'vesper_events_folded_total';

const ownFamilies: Readonly<Record<OwnName, Pick<Family, 'type' | 'help'>>> = {
  vesper_events_total: { type: 'counter', help: 'Events by probe, event and severity.' },
  vesper_event_latency_seconds: {
    type: 'histogram',
    help: 'From the record in the guest to its reading by the host, as exact as the clocks agree.',
  },
  vesper_event_series: {
    type: 'gauge',
    help: 'Combinations of label values of an event that have a series.',
  },
  vesper_event_series_limit: {
    type: 'gauge',
    help: 'Most combinations of label values of an event that get a series.',
  },
  vesper_events_folded_total: {
    type: 'counter',
    help: 'Events counted in a series whose labels all say "other", because the limit of series was reached.',
  },
};
const ownNames = Object.keys(ownFamilies) as readonly OwnName[];

function labelled(guest: string, names: readonly string[], { labels }: Series): Labels {
  const named: Record<string, string> = { guest };
  for (const [at, name] of names.entries()) named[name] = labels[at] ?? '';
  return named;
}

function* counts(guest: string, { labelNames, set }: Kind): Generator<Sample> {
  for (const series of set.all()) yield { labels: labelled(guest, labelNames, series), value: series.count };
}

function* histograms(guest: string, { labelNames, set }: Kind, name: string): Generator<Sample> {
  for (const series of set.all()) {
    const histogram = series.histograms.get(name);
    if (histogram !== undefined) yield* histogram.samples(labelled(guest, labelNames, series));
  }
}

/** One for each event: versions of a probe may declare different labels. */
function totals(guest: string, kinds: Iterable<Kind>): readonly Sample[] {
  const found = new Map<string, { readonly labels: Labels; value: number }>();
  for (const { probe, event, severity, set } of kinds) {
    const key = `${probe}\0${event}\0${severity}`;
    const total = found.get(key) ?? { labels: { guest, probe, event, severity }, value: 0 };
    found.set(key, total);
    for (const { count } of set.all()) total.value += count;
  }
  return [...found.values()];
}

function* concatenated(sources: readonly Source[]): Generator<Sample> {
  for (const source of sources) yield* source();
}
