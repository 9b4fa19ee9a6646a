// SPDX-License-Identifier: Apache-2.0

/** What the API answers: stable JSON shapes, shared with the CLI. */

export type GuestState = 'undefined' | 'stopped' | 'running' | 'reachable' | 'active' | 'degraded' | 'lost';

export interface PointView {
  readonly name: string;
  readonly kind: string;
  readonly armed: boolean;
  /** Name of the errno, empty when armed. */
  readonly error: string;
  readonly hits: number;
}

export interface ProbeView {
  readonly name: string;
  readonly sha256: string;
  readonly slot: number | null;
  readonly wanted: boolean;
  readonly loaded: boolean;
  readonly armed_points: number;
  readonly points: readonly PointView[];
  readonly parameters: Readonly<Record<string, string>>;
  /** Why a wanted probe is not loaded, empty otherwise. */
  readonly reason: string;
}

/** Loss accounting of one incarnation: delivered + lost = written by the guest, once the rings are drained. */
export interface RelayView {
  readonly backend: string;
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
}

export interface GuestView {
  readonly name: string;
  readonly uuid: string;
  readonly provider: string;
  readonly state: GuestState;
  readonly reason: string;
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

export interface PastView {
  readonly boot_id: string;
  readonly reason: string;
  readonly delivered: number;
  readonly lost: number;
}

/** Result of attaching or detaching one probe. */
export interface ProbeResult {
  readonly probe: string;
  readonly ok: boolean;
  /** One sentence: what holds now, or why not and what to do. */
  readonly message: string;
  readonly warnings: readonly string[];
  readonly armed_points: number;
  readonly points: readonly PointView[];
  /** From the request to the answer, in ms. */
  readonly took_ms: number;
  /** Duration of init_module in the guest, in ms. */
  readonly load_ms: number;
  /** Name of the guest kernel's errno, empty where it loaded or was not tried. */
  readonly errno: string;
}
