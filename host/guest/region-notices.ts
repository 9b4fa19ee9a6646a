// SPDX-License-Identifier: Apache-2.0

import { VesperError } from '../error.ts';
import { errnoName } from '../probe/errno.ts';
import type { PayloadOf } from '../wire/message.ts';
import { hexOf } from './incarnation.ts';

/** What the frontend said of its regions: only its word proves that a plugged region is mapped. */
export class RegionNotices {
  readonly #guest: string;
  readonly #present = new Set<string>();
  #waiting: { readonly token: string; readonly settle: (error?: VesperError) => void } | undefined;

  constructor(guest: string) {
    this.#guest = guest;
  }

  note(notice: PayloadOf<'region'>): void {
    const token = hexOf(notice.token);
    if (notice.present === 0) {
      this.#present.delete(token);
      return;
    }
    if (notice.error === 0) this.#present.add(token);
    if (this.#waiting?.token !== token) return;
    this.#waiting.settle(
      notice.error === 0
        ? undefined
        : new VesperError(
            'RELAY',
            `${this.#guest}: the frontend cannot use the region: ${errnoName(notice.error)}`,
            {
              data: { guest: this.#guest, errno: notice.error },
            },
          ),
    );
  }

  /** Resolves when the frontend has mapped the region with that token (lower-case hexadecimal). */
  wait(token: string, timeLimitMs: number): Promise<void> {
    if (this.#present.has(token)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () =>
          settle(
            new VesperError(
              'TIMEOUT',
              `${this.#guest}: the guest did not take the hot-plugged region within ${timeLimitMs} ms: its kernel may lack PCI hot-plug (acpiphp, pciehp), or the frontend its ivshmem driver`,
              { data: { guest: this.#guest } },
            ),
          ),
        timeLimitMs,
      );
      const settle = (error?: VesperError) => {
        clearTimeout(timer);
        this.#waiting = undefined;
        if (error === undefined) resolve();
        else reject(error);
      };
      this.#waiting = { token, settle };
    });
  }

  /** The session ended: nobody will tell any more. */
  abandon(reason: string): void {
    this.#waiting?.settle(new VesperError('SESSION_ENDED', `${this.#guest}: the session ended: ${reason}`));
  }
}
