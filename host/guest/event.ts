// SPDX-License-Identifier: Apache-2.0

import type { Severity } from '../probe/declaration.ts';
import type { FieldValue } from '../relay/decoder.ts';

/** One decoded event as an object: for sinks that show or store single events, not for the hot path. */
export interface VesperEvent {
  readonly guest: string;
  readonly uuid: string;
  readonly bootId: string;
  readonly probe: string;
  readonly event: string;
  readonly severity: Severity;
  readonly cpu: number;
  /** Number of the record in its ring; with bootId, cpu and ring it names the event. */
  readonly sequence: number;
  readonly ring: 'critical' | 'other';
  /** CLOCK_BOOTTIME of the guest. */
  readonly guestTimeNs: number;
  /** Milliseconds since 1970, with a fraction. */
  readonly hostTimeMs: number;
  /** Largest error of hostTimeMs, in µs; null before the clocks were aligned. */
  readonly hostTimeErrorUs: number | null;
  /** From the record to the host's reading it, in µs; as inexact as hostTimeMs. */
  readonly latencyUs: number;
  readonly fields: Readonly<Record<string, FieldValue>>;
}

/** The stable JSON form: snake_case names, 64-bit integers beyond 2^53 as strings. */
export function eventJson(event: VesperEvent, isoTime: (wallMs: number) => string): Record<string, unknown> {
  return {
    type: 'event',
    guest: event.guest,
    uuid: event.uuid,
    boot_id: event.bootId,
    probe: event.probe,
    event: event.event,
    severity: event.severity,
    guest_time_ns: event.guestTimeNs,
    host_time: isoTime(event.hostTimeMs),
    host_time_error_us: event.hostTimeErrorUs,
    latency_us: event.latencyUs,
    cpu: event.cpu,
    ring: event.ring,
    sequence: event.sequence,
    fields: Object.fromEntries(
      Object.entries(event.fields).map(([name, value]) => [
        name,
        typeof value === 'bigint' ? String(value) : value,
      ]),
    ),
  };
}
