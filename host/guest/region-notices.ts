// SPDX-License-Identifier: Apache-2.0

import { VesperError } from '../error.ts';
import { errnoName } from '../probe/errno.ts';
import type { ProvidedRegion } from '../provider/provider.ts';
import { reserveFor } from '../provider/region-file.ts';
import type { PayloadOf } from '../wire/message.ts';
import { hexOf } from './incarnation.ts';

/** Of a device whose memory the guest's kernel gave no address: what is stamped there cannot be read. */
const noToken = '0'.repeat(32);
const ENOSPC = -28;
/** Such a device may be somebody else's: for so long ours may still turn up. */
const graceMs = 1_000;

interface Waiting {
  readonly token: string;
  readonly settle: (error?: VesperError) => void;
  readonly unplaced: () => void;
}

/** What the frontend said of its regions: only its word proves that a plugged region is mapped. */
export class RegionNotices {
  readonly #guest: string;
  readonly #present = new Set<string>();
  /** Devices without an address, whoever they belong to. */
  #unplaced = 0;
  #waiting: Waiting | undefined;

  constructor(guest: string) {
    this.#guest = guest;
  }

  note(notice: PayloadOf<'region'>): void {
    const token = hexOf(notice.token);
    if (token === noToken) {
      this.#noteUnplaced(notice);
      return;
    }
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

  /**
   * Resolves when the frontend has mapped the region. Throws TIMEOUT where it says nothing of it, RELAY where it cannot use it:
   * soon after the news of a device without an address, and at the time limit where it told of such a one before.
   */
  wait({ token, bytes }: Pick<ProvidedRegion, 'token' | 'bytes'>, timeLimitMs: number): Promise<void> {
    const name = hexOf(token);
    if (this.#present.has(name)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => settle(this.#unplaced > 0 ? this.#noAddress(bytes) : this.#silence(timeLimitMs)),
        timeLimitMs,
      );
      let grace: NodeJS.Timeout | undefined;
      const settle = (error?: VesperError) => {
        clearTimeout(timer);
        clearTimeout(grace);
        this.#waiting = undefined;
        if (error === undefined) resolve();
        else reject(error);
      };
      const unplaced = () => {
        grace ??= setTimeout(() => settle(this.#noAddress(bytes)), graceMs);
      };
      this.#waiting = { token: name, settle, unplaced };
    });
  }

  /** The session ended: nobody will tell any more. */
  abandon(reason: string): void {
    this.#waiting?.settle(new VesperError('SESSION_ENDED', `${this.#guest}: the session ended: ${reason}`));
  }

  #noteUnplaced({ present, error }: PayloadOf<'region'>): void {
    if (present === 0) {
      this.#unplaced = Math.max(0, this.#unplaced - 1);
    } else if (error === ENOSPC) {
      this.#unplaced += 1;
      this.#waiting?.unplaced();
    }
  }

  #silence(timeLimitMs: number): VesperError {
    const message = `${this.#guest}: the guest did not take the hot-plugged region within ${timeLimitMs} ms: its kernel may lack PCI hot-plug (acpiphp, pciehp), or the frontend its ivshmem driver`;
    return new VesperError('TIMEOUT', message, { data: { guest: this.#guest } });
  }

  #noAddress(bytes: number): VesperError {
    const message = `${this.#guest}: the guest's kernel found no address for the memory of the region: use a smaller region than ${bytes} bytes, or start the machine with pref64-reserve=${reserveFor(bytes)} at the PCI Express root port it is plugged into`;
    return new VesperError('RELAY', message, { data: { guest: this.#guest, errno: ENOSPC, bytes } });
  }
}
