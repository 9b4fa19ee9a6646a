// SPDX-License-Identifier: Apache-2.0

/** What the sink did, as metrics. */

import type { Family } from '../prometheus/page.ts';
import type { Outcome } from './actuator.ts';
import type { Action } from './rules.ts';

export class Tally {
  readonly #outcomes = new Map<
    string,
    { readonly action: Action; readonly outcome: Outcome; count: number }
  >();
  /** Events that a rule was about. */
  events = 0;
  /** Signs that nothing was done about, for want of a second one. */
  unconfirmed = 0;
  /** Incidents beyond what may be owed. */
  dropped = 0;

  over(action: Action, outcome: Outcome): void {
    const key = `${action}\0${outcome}`;
    const known = this.#outcomes.get(key);
    if (known === undefined) this.#outcomes.set(key, { action, outcome, count: 1 });
    else known.count += 1;
  }

  families(owed: number, calls: number): readonly Family[] {
    const values = { events: this.events, calls, owed, unconfirmed: this.unconfirmed, dropped: this.dropped };
    return [
      ...plain.map(({ of, ...family }) => ({ ...family, samples: [{ labels: {}, value: values[of] }] })),
      {
        name: incidents,
        type: 'counter',
        help: 'Incidents that are over, by action and what came of it.',
        samples: [...this.#outcomes.values()].map(({ action, outcome, count }) => ({
          labels: { action, outcome },
          value: count,
        })),
      },
    ];
  }
}

const incidents = 'vesper_pacemaker_incidents_total';

const plain = [
  {
    of: 'events',
    name: 'vesper_pacemaker_events_total',
    type: 'counter',
    help: 'Events that a rule for the cluster was about.',
  },
  {
    of: 'calls',
    name: 'vesper_pacemaker_calls_total',
    type: 'counter',
    help: 'Times the cluster was asked to act.',
  },
  { of: 'owed', name: 'vesper_pacemaker_owed', type: 'gauge', help: 'Incidents that are not over.' },
  {
    of: 'unconfirmed',
    name: 'vesper_pacemaker_unconfirmed_total',
    type: 'counter',
    help: 'Signs that nothing was done about before a second one.',
  },
  {
    of: 'dropped',
    name: 'vesper_pacemaker_dropped_total',
    type: 'counter',
    help: 'Incidents that the cluster was not told, since it was owed too many others.',
  },
] as const;

export const tallyNames: readonly string[] = [incidents, ...plain.map(({ name }) => name)];
