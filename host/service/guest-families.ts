// SPDX-License-Identifier: Apache-2.0

/** What the service knows of its guests, as metrics. */

import type { RelayStatistics } from '../relay/relay.ts';
import type { Family, Labels, Sample } from '../sink/prometheus/page.ts';
import { labelText } from '../sink/prometheus/series.ts';
import type { ManagedGuest } from './managed-guest.ts';
import { type GuestState, guestStates } from './results.ts';
import { kindOf, type RingKind, type Totals } from './session-account.ts';

export interface GuestReading {
  /** Value of the label `guest`. */
  readonly label: string;
  readonly guest: ManagedGuest;
  readonly totals: Totals;
  /** Of the session now. */
  readonly statistics: RelayStatistics | undefined;
}

interface Definition extends Pick<Family, 'name' | 'type' | 'help'> {
  readonly read: (reading: GuestReading) => readonly (readonly [Labels, number])[];
}

const byKind = (of: Readonly<Record<RingKind, number>>): readonly (readonly [Labels, number])[] => [
  [{ ring: 'critical' }, of.critical],
  [{ ring: 'other' }, of.other],
];

const rings = (
  { statistics }: GuestReading,
  of: (ring: { readonly pendingBytes: number; readonly dataBytes: number }) => number,
): readonly (readonly [Labels, number])[] =>
  (statistics?.perRing ?? []).map((ring) => [{ ring: kindOf(ring), cpu: String(ring.cpu) }, of(ring)]);

const definitions: readonly Definition[] = [
  {
    name: 'vesper_guest_info',
    type: 'gauge',
    help: 'Who the guest is; always 1. Kernel and frontend are those of the last session.',
    read: ({ guest: { machine, session } }) => [
      [
        {
          uuid: machine.uuid,
          provider: machine.provider,
          kernel: labelText(session?.hello.kernel_release ?? ''),
          frontend: labelText(session?.hello.frontend_version ?? ''),
        },
        1,
      ],
    ],
  },
  {
    name: 'vesper_guest_state',
    type: 'gauge',
    help: '1 for the state the guest is in, 0 for the others.',
    read: ({ guest }) =>
      guestStates.map((state: GuestState) => [{ state }, guest.state === state ? 1 : 0] as const),
  },
  {
    name: 'vesper_guest_sessions_total',
    type: 'counter',
    help: 'Sessions with the guest that began: activated anew, or resumed where one had been.',
    read: ({ totals: { sessions } }) => [
      [{ kind: 'activated' }, sessions.activated],
      [{ kind: 'resumed' }, sessions.resumed],
    ],
  },
  {
    name: 'vesper_guest_records_delivered_total',
    type: 'counter',
    help: 'Records read from the rings.',
    read: ({ totals }) => byKind(totals.delivered),
  },
  {
    name: 'vesper_guest_delivered_bytes_total',
    type: 'counter',
    help: 'Bytes of these records.',
    read: ({ totals }) => byKind(totals.deliveredBytes),
  },
  {
    name: 'vesper_guest_records_lost_total',
    type: 'counter',
    help: 'Records lost in full rings, as the guest counts them.',
    read: ({ totals }) => byKind(totals.lost),
  },
  {
    name: 'vesper_guest_records_missing_total',
    type: 'counter',
    help: 'Records lost, as the gaps in their sequence numbers show the host.',
    read: ({ totals }) => byKind(totals.gaps),
  },
  {
    name: 'vesper_guest_records_duplicate_total',
    type: 'counter',
    help: 'Records whose sequence number had been seen before.',
    read: ({ totals }) => [[{}, totals.duplicates]],
  },
  {
    name: 'vesper_guest_records_undecodable_total',
    type: 'counter',
    help: 'Records of a probe or event that this service does not know, or of another length than declared.',
    read: ({ totals }) => [[{}, totals.undecodable]],
  },
  {
    name: 'vesper_guest_rings_quarantined',
    type: 'gauge',
    help: 'Rings that are no longer read, because what the guest wrote there is broken.',
    read: ({ statistics }) => [[{}, statistics?.quarantined ?? 0]],
  },
  {
    name: 'vesper_ring_used_bytes',
    type: 'gauge',
    help: 'Bytes in a ring that are written and not read yet.',
    read: (reading) => rings(reading, ({ pendingBytes }) => pendingBytes),
  },
  {
    name: 'vesper_ring_size_bytes',
    type: 'gauge',
    help: 'Bytes that fit into a ring.',
    read: (reading) => rings(reading, ({ dataBytes }) => dataBytes),
  },
  {
    name: 'vesper_guest_clock_error_seconds',
    type: 'gauge',
    help: 'Largest error of host times computed from the clock of the guest.',
    read: ({ guest }) => {
      const microseconds = guest.session?.clockErrorUs ?? null;
      return microseconds === null ? [] : [[{}, microseconds / 1e6]];
    },
  },
  {
    name: 'vesper_guest_probe_wanted',
    type: 'gauge',
    help: '1 for each probe that was attached to the guest.',
    read: ({ guest }) => guest.wanted.map(({ name }) => [{ probe: labelText(name) }, 1] as const),
  },
  {
    name: 'vesper_guest_probe_points',
    type: 'gauge',
    help: 'Probe points that are armed in the guest, for each probe that is loaded there.',
    read: ({ guest }) =>
      (guest.session?.probes.all() ?? []).map(
        ({ name, armedPoints }) => [{ probe: labelText(name) }, armedPoints] as const,
      ),
  },
];

/** Of all guests, by name of the metric. */
export function guestFamilies(readings: readonly GuestReading[]): readonly Family[] {
  return definitions.map(({ name, type, help, read }) => ({
    name,
    type,
    help,
    samples: { [Symbol.iterator]: () => samplesOf(readings, read) },
  }));
}

function* samplesOf(readings: readonly GuestReading[], read: Definition['read']): Generator<Sample> {
  for (const reading of readings)
    for (const [labels, value] of read(reading)) yield { labels: { guest: reading.label, ...labels }, value };
}

export const guestFamilyNames: readonly string[] = definitions.map(({ name }) => name);
