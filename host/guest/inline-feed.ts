// SPDX-License-Identifier: Apache-2.0

/** Between the channel and the rings of a guest without shared memory: records come in, what was delivered goes back. */

import type { Frame } from '../channel/frame.ts';
import { type ShadowOptions, ShadowRegion } from '../relay/shadow.ts';
import type { ControlLink } from './control-link.ts';

export class InlineFeed {
  #shadow: ShadowRegion | undefined;
  #link: ControlLink | undefined;
  #due: NodeJS.Immediate | undefined;
  /** Frames of records that belong to no ring of this epoch. */
  strays = 0;

  /** Before the guest is asked to send. Throws as `fs` does. */
  open(options: ShadowOptions): void {
    this.close();
    this.#shadow = new ShadowRegion(options);
  }

  /** The guest took the epoch: it is told from now on what was delivered. */
  attach(link: ControlLink): void {
    this.#link = link;
    this.released();
  }

  take({ payload, tail }: Frame<'records'>): void {
    if (this.#shadow?.take(payload, tail) !== true) this.strays += 1;
  }

  /** The rings were released up to somewhere; told once for all that is released in this turn of the event loop. */
  released(): void {
    if (this.#link === undefined || this.#due !== undefined) return;
    this.#due = setImmediate(() => {
      this.#due = undefined;
      for (const consumed of this.#shadow?.consumed() ?? []) {
        // A channel that is gone is the end of the session; the next one tells.
        this.#link?.send('consumed', consumed).catch(() => undefined);
      }
    });
  }

  close(): void {
    clearImmediate(this.#due);
    this.#due = undefined;
    this.#link = undefined;
    this.#shadow?.close();
    this.#shadow = undefined;
  }
}
