// SPDX-License-Identifier: Apache-2.0

/** The service's page for Prometheus: events as the sink counts them, guests as they are, pushes, and the service itself. */

import { tallyNames } from '../sink/pacemaker/tally.ts';
import { type Family, renderPage } from '../sink/prometheus/page.ts';
import { labelText } from '../sink/prometheus/series.ts';
import { PrometheusSink } from '../sink/prometheus/sink.ts';
import { version } from '../version.ts';
import type { AuditEntry } from './audit.ts';
import type { Bus } from './bus.ts';
import { type GuestReading, guestFamilies, guestFamilyNames } from './guest-families.ts';
import { GuestLabels } from './guest-labels.ts';
import type { ManagedGuest } from './managed-guest.ts';
import { SessionAccount } from './session-account.ts';

/** What of the service the metrics look at. */
export interface MeteredService {
  readonly bus: Bus;
  guests(): readonly ManagedGuest[];
  watchGuests(found: () => void): () => void;
}

interface Followed {
  readonly account: SessionAccount;
  guest: ManagedGuest;
}

export class Metrics {
  readonly #service: MeteredService;
  readonly #labels = new GuestLabels();
  readonly #sink: PrometheusSink;
  readonly #others: { families(): readonly Family[] }[] = [];
  /** By UUID: a guest that is found anew goes on in its account. */
  readonly #followed = new Map<string, Followed>();
  /** By guest, probe, action and result. */
  readonly #loads = new Map<string, { readonly entry: AuditEntry; count: number }>();
  #rendering: Promise<string> | undefined;

  constructor(service: MeteredService) {
    this.#service = service;
    this.#sink = new PrometheusSink(
      (guest) => this.#labels.of(guest),
      [...guestFamilyNames, ...serviceFamilyNames, ...tallyNames],
    );
    service.bus.add(this.#sink);
    service.watchGuests(() => this.#follow());
  }

  /** What has metrics of its own, under names that no event takes. */
  add(other: { families(): readonly Family[] }): void {
    this.#others.push(other);
  }

  /** A probe was loaded or unloaded, or was to be. */
  told(entry: AuditEntry): void {
    const { action, uuid, probe, result } = entry;
    const key = [uuid, probe, action, result].join('\0');
    const known = this.#loads.get(key);
    if (known === undefined) this.#loads.set(key, { entry, count: 1 });
    else known.count += 1;
  }

  /** The guest is no longer known: its series end. */
  forget(uuid: string): void {
    this.#followed.delete(uuid);
    for (const [key, { entry }] of this.#loads) if (entry.uuid === uuid) this.#loads.delete(key);
    this.#sink.forget(uuid);
    this.#labels.forget(uuid);
  }

  /** In Prometheus' text format. Who asks while another one's page is being made gets the same. */
  page(): Promise<string> {
    this.#rendering ??= renderPage(this.families()).finally(() => {
      this.#rendering = undefined;
    });
    return this.#rendering;
  }

  families(): readonly Family[] {
    this.#follow();
    const readings = [...this.#followed.values()].map(({ guest, account }): GuestReading => {
      account.follow(guest.session);
      return {
        guest,
        label: this.#labels.of(guest.machine),
        totals: account.totals(),
        statistics: guest.session?.statistics,
      };
    });
    return [
      ...guestFamilies(readings),
      this.#loadFamily('load'),
      this.#loadFamily('unload'),
      ...this.#sink.families(),
      ...this.#others.flatMap((other) => other.families()),
      ...serviceFamilies(this.#service.bus),
    ];
  }

  #follow(): void {
    for (const guest of this.#service.guests()) {
      const { uuid } = guest.machine;
      const known = this.#followed.get(uuid);
      if (known?.guest === guest) continue;
      const account = known?.account ?? new SessionAccount();
      this.#followed.set(uuid, { guest, account });
      guest.watch(() => {
        if (this.#followed.get(uuid)?.guest === guest) account.follow(guest.session);
      });
    }
  }

  #loadFamily(action: AuditEntry['action']): Family {
    const samples = [...this.#loads.values()]
      .filter(({ entry }) => entry.action === action)
      .map(({ entry, count }) => ({
        labels: {
          guest: this.#labels.of({ name: entry.guest, uuid: entry.uuid }),
          probe: labelText(entry.probe),
          result: entry.result,
        },
        value: count,
      }));
    return action === 'load'
      ? { name: pushes, type: 'counter', help: 'Probes that were to be loaded, by what came of it.', samples }
      : {
          name: unloads,
          type: 'counter',
          help: 'Probes that were to be unloaded, by what came of it.',
          samples,
        };
  }
}

const pushes = 'vesper_probe_pushes_total';
const unloads = 'vesper_probe_unloads_total';

function serviceFamilies(bus: Bus): readonly Family[] {
  const cpu = process.cpuUsage();
  const one = (name: string, type: Family['type'], help: string, value: number, labels = {}): Family => ({
    name,
    type,
    help,
    samples: [{ labels, value }],
  });
  return [
    one('vesper_build_info', 'gauge', 'Version of the service; always 1.', 1, { version }),
    one('vesper_sink_failures_total', 'counter', 'Batches of events on which a sink failed.', bus.failures),
    one(
      'process_cpu_seconds_total',
      'counter',
      'Processor time the service used, in user and system mode.',
      (cpu.user + cpu.system) / 1e6,
    ),
    one(
      'process_resident_memory_bytes',
      'gauge',
      'Resident memory of the service.',
      process.memoryUsage.rss(),
    ),
    one(
      'process_start_time_seconds',
      'gauge',
      'When the service started, in seconds since 1970.',
      performance.timeOrigin / 1e3,
    ),
  ];
}

const serviceFamilyNames: readonly string[] = [
  pushes,
  unloads,
  'vesper_build_info',
  'vesper_sink_failures_total',
  'process_cpu_seconds_total',
  'process_resident_memory_bytes',
  'process_start_time_seconds',
];
