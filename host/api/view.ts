// SPDX-License-Identifier: Apache-2.0

/** What the API answers: stable JSON shapes, shared with the CLI. */

import type { PointState } from '../guest/probe-state.ts';
import type { GuestState } from '../service/results.ts';
import type { IncidentDocument, IncidentSummary } from '../sink/pacemaker/incident-files.ts';

export type { GuestState, ProbeResult } from '../service/results.ts';

export interface ProbeView {
  readonly name: string;
  readonly sha256: string;
  readonly slot: number | null;
  readonly wanted: boolean;
  readonly loaded: boolean;
  readonly armed_points: number;
  readonly points: readonly PointState[];
  readonly parameters: Readonly<Record<string, string>>;
  /** `FILE:LINE` of the configuration, or `attach`; null where it is not wanted. */
  readonly wanted_by: string | null;
  /** Why it is not as it is wanted, empty otherwise. */
  readonly reason: string;
  /** How often that was tried, and when it will be again; 0 and null where nothing failed. */
  readonly attempts: number;
  readonly next_attempt: string | null;
}

/** Loss accounting of one incarnation: delivered + lost = written by the guest, once the rings are drained. */
export interface RelayView {
  /** `ivshmem`, `guest-pages` or `inline`: how records reach the host. */
  readonly backend: string;
  /** What hindered those that are better, empty: nothing. */
  readonly backend_reason: string;
  readonly region_bytes: number;
  readonly rings: number;
  readonly delivered: number;
  /** As the guest counted them. */
  readonly lost: number;
  /** As the gaps in the sequence numbers show them. */
  readonly gaps: number;
  /** Records of a probe or event this service does not know. */
  readonly undecodable: number;
  /** Rings taken out of service because what the guest wrote there was broken. */
  readonly quarantined: number;
  /** How often the guest was found to have overwritten what only the host writes in its rings. */
  readonly overwritten: number;
}

/**
 * `dead`: its kernel panicked; `silent`: there is a session, and the frontend does not answer, which proves nothing; `stopped`: the
 * machine does not run; `unknown`: nobody can tell.
 */
export type GuestHealth = 'alive' | 'dead' | 'silent' | 'stopped' | 'unknown';

export interface GuestView {
  readonly name: string;
  readonly uuid: string;
  readonly provider: string;
  readonly state: GuestState;
  readonly reason: string;
  readonly health: GuestHealth;
  readonly channel: string;
  readonly boot_id: string;
  readonly kernel: string;
  readonly vermagic: string;
  /** As uname -m. */
  readonly machine: string;
  /** Largest image its frontend takes, in bytes; 0 without a session. */
  readonly image_max: number;
  readonly frontend: string;
  /** Error bound of host times, in µs; null before the clocks were aligned. */
  readonly clock_error_us: number | null;
  readonly probes: readonly ProbeView[];
  readonly relay: RelayView | null;
  /** Sessions that are over, newest last. */
  readonly past: readonly PastView[];
}

/** What happened in a guest and was told to the cluster, or was to be. */
export type IncidentView = IncidentSummary;
/** With all that was done about it, and the last events of the guest before. */
export type IncidentDetailView = IncidentDocument;

export interface PastView {
  readonly boot_id: string;
  readonly reason: string;
  readonly delivered: number;
  readonly lost: number;
}

/** A place where guests are expected and cannot be looked after. */
export interface ProblemView {
  /** A monitor's socket, a hypervisor's URI. */
  readonly where: string;
  readonly problem: string;
}
