// SPDX-License-Identifier: Apache-2.0

/** What a frontend tells of its regions, and what it means for the one that was plugged. */

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { RegionNotices } from '../../host/guest/region-notices.ts';

const token = new Uint8Array(16).fill(7);
const region = { token, bytes: 1 << 20 };
const ours = { present: 1, error: 0, size: 1n << 20n, token };
/** A device without an address: nobody can read whose it is. */
const unplaced = { present: 1, error: -28, size: 0n, token: new Uint8Array(16) };
const limitMs = 8_000;

let notices: RegionNotices;
beforeEach(() => {
  vi.useFakeTimers();
  notices = new RegionNotices('web1');
});
afterEach(() => vi.useRealTimers());

/** How a wait ended, and after how many milliseconds; `undefined` for a region that is mapped. */
async function outcome(meanwhile: () => void = () => undefined): Promise<{ code?: string; afterMs: number }> {
  const startedAt = Date.now();
  const waiting = notices.wait(region, limitMs).then(
    () => ({ afterMs: Date.now() - startedAt }),
    ({ code }: { code: string }) => ({ code, afterMs: Date.now() - startedAt }),
  );
  meanwhile();
  await vi.runAllTimersAsync();
  return waiting;
}

describe('a region that was plugged', () => {
  it('is announced, before or after the wait began', async () => {
    expect(await outcome(() => notices.note(ours))).toEqual({ afterMs: 0 });
    expect(await outcome()).toEqual({ afterMs: 0 });
  });

  it('has no address: not waited for to the end', async () => {
    expect(await outcome(() => notices.note(unplaced))).toEqual({ code: 'RELAY', afterMs: 1_000 });
  });

  it("is fine, and somebody else's has no address", async () => {
    notices.note(unplaced);
    expect(await outcome(() => setTimeout(() => notices.note(ours), 3_000))).toEqual({ afterMs: 3_000 });
  });

  it("is fine, and somebody else's that comes at the same time has no address", async () => {
    const both = () => {
      notices.note(unplaced);
      setTimeout(() => notices.note(ours), 200);
    };
    expect(await outcome(both)).toEqual({ afterMs: 200 });
  });

  it('was there before this session, and had no address then', async () => {
    notices.note(unplaced);
    expect(await outcome()).toEqual({ code: 'RELAY', afterMs: limitMs });
  });

  it('is not told of: also when a device without an address has gone again', async () => {
    expect(await outcome()).toEqual({ code: 'TIMEOUT', afterMs: limitMs });
    notices.note(unplaced);
    notices.note({ ...unplaced, present: 0, error: 0 });
    expect(await outcome()).toEqual({ code: 'TIMEOUT', afterMs: limitMs });
  });
});
