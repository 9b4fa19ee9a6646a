// SPDX-License-Identifier: Apache-2.0

/** What one run measured, as it is kept in build/evaluation.json after each crash. */

export const modes = ['poll 10 s', 'poll 1 s', 'VESPER'] as const;
export type Mode = (typeof modes)[number];

/** How often the cluster polls in a mode. With VESPER it goes on as before. */
export const intervalMs: Readonly<Record<Mode, number>> = {
  'poll 10 s': 10_000,
  'poll 1 s': 1_000,
  VESPER: 10_000,
};

export const experiments = ['SIGSEGV', 'OOM'] as const;
export type Experiment = (typeof experiments)[number];

/** One death of the web server. Times are milliseconds since the record of the death in the guest, unless they say otherwise. */
export interface Crash {
  readonly mode: Mode;
  readonly experiment: Experiment;
  /** From the cluster's last poll to the death. */
  readonly sincePollMs: number;
  /** How wrong the time of the death may be, beside the host's. */
  readonly errorMs: number;
  /** By VESPER: its handler had the event. By poll: the cluster noted that its poll had failed. */
  readonly detectedMs: number;
  /** The cluster's coordinator initiated the stop of what is left of the server, as its log says: so a recovery begins. */
  readonly recoveringMs: number;
  /** The node asked the guest node for that, as its log says. */
  readonly askedMs: number;
  /** The agent in the guest was called for that. */
  readonly agentMs: number;
  /** The client had a whole page again. */
  readonly answeringMs: number;
}

/** What was known of the cause, in the words of who knew it. */
export interface Cause {
  readonly mode: Mode;
  readonly experiment: Experiment;
  readonly text: string;
}

/** Processor time is in seconds for each second. */
export interface Costs {
  readonly guests: number;
  /** Pacemaker and its agents on a node that polls so many resources each second. */
  readonly polling: {
    readonly cpu: number;
    /** Of the daemons before. */
    readonly idleCpu: number;
    /** Polls in a second that were really made. */
    readonly polls: number;
  };
  /** Of the QEMU whose guest runs the agent each second, and of the same before. */
  readonly inGuest: { readonly qemuCpu: number; readonly idleQemuCpu: number };
  /** Of one poll by ocf:heartbeat:VirtualDomain, in seconds. */
  readonly virtualDomain: number;
  /** The service with so many stand-in guests that are idle, with a probe attached to each. */
  readonly vesper: number;
}

export interface Results {
  /** Left and right column. */
  readonly facts: readonly (readonly [string, string])[];
  readonly rounds: number;
  readonly seed: number;
  readonly crashes: readonly Crash[];
  readonly causes: readonly Cause[];
  /** Undefined: not measured. */
  readonly costs?: Costs | undefined;
  /** What did not work, and was done again or left out. */
  readonly failures: readonly string[];
  readonly seconds: number;
}

export const crashesOf = (
  { crashes }: Pick<Results, 'crashes'>,
  mode: Mode,
  experiment: Experiment,
): readonly Crash[] => crashes.filter((crash) => crash.mode === mode && crash.experiment === experiment);
