// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import type { GuestSession } from '../../host/guest/session.ts';
import { GuestLabels } from '../../host/service/guest-labels.ts';
import { SessionAccount } from '../../host/service/session-account.ts';

interface Ring {
  critical: boolean;
  received: number;
  receivedBytes: number;
  gaps: number;
  guestLost: number;
  duplicates: number;
}

/** A session whose critical ring and other ring can be changed while it runs. */
function sessionOf(epoch: bigint, resumed = false) {
  const ring = (critical: boolean): Ring => ({
    critical,
    received: 0,
    receivedBytes: 0,
    gaps: 0,
    guestLost: 0,
    duplicates: 0,
  });
  const critical = ring(true);
  const other = ring(false);
  const session = { epoch, resumed, undecodable: 0, statistics: { perRing: [critical, other] } };
  return { critical, other, session: session as unknown as GuestSession };
}

describe('what sessions delivered and lost', () => {
  test('is told by kind of ring while they last, and stays when they are over', () => {
    const account = new SessionAccount();
    const { session, critical, other } = sessionOf(1n);
    account.follow(session);
    Object.assign(critical, { received: 2, receivedBytes: 128 });
    Object.assign(other, { received: 10, gaps: 3, guestLost: 4, duplicates: 1 });
    const totals = {
      delivered: { critical: 2, other: 10 },
      deliveredBytes: { critical: 128, other: 0 },
      lost: { critical: 0, other: 4 },
      gaps: { critical: 0, other: 3 },
      duplicates: 1,
      sessions: { activated: 1, resumed: 0 },
    };
    expect(account.totals()).toMatchObject(totals);
    account.follow(undefined);
    account.follow(undefined);
    expect(account.totals()).toMatchObject(totals);
  });

  test('of a session that goes on in the epoch is not counted twice', () => {
    const account = new SessionAccount();
    const first = sessionOf(1n);
    Object.assign(first.other, { received: 10, guestLost: 4, gaps: 4 });
    account.follow(first.session);
    account.follow(undefined);
    // The reader is new, the counters of the guest and its sequence numbers are not.
    const second = sessionOf(1n, true);
    Object.assign(second.other, { received: 5, guestLost: 6, gaps: 5 });
    account.follow(second.session);
    expect(account.totals()).toMatchObject({
      delivered: { other: 15 },
      lost: { other: 6 },
      gaps: { other: 5 },
      sessions: { activated: 1, resumed: 1 },
    });
  });

  test('of the next boot is added', () => {
    const account = new SessionAccount();
    for (const epoch of [1n, 2n]) {
      const { session, other } = sessionOf(epoch);
      Object.assign(other, { received: 10, guestLost: 4, gaps: 3 });
      account.follow(session);
      account.follow(undefined);
    }
    expect(account.totals()).toMatchObject({
      delivered: { other: 20 },
      lost: { other: 8 },
      gaps: { other: 6 },
      sessions: { activated: 2 },
    });
  });

  test('never becomes less: a gap that closes, a guest that sets its counter back', () => {
    const account = new SessionAccount();
    const { session, other } = sessionOf(1n);
    account.follow(session);
    Object.assign(other, { gaps: 2, guestLost: 7 });
    account.totals();
    Object.assign(other, { gaps: 1, guestLost: 0 });
    expect(account.totals()).toMatchObject({ gaps: { other: 2 }, lost: { other: 7 } });
  });
});

describe('the label of a guest', () => {
  test('is its name; with its UUID where the name is taken; another one after a renaming', () => {
    const labels = new GuestLabels();
    const first = { name: 'web1', uuid: '11111111-aaaa' };
    const second = { name: 'web1', uuid: '22222222-aaaa' };
    expect(labels.of(first)).toBe('web1');
    expect(labels.of(second)).toBe('web1 (22222222)');
    expect(labels.of(first)).toBe('web1');
    expect(labels.of({ ...first, name: 'web2' })).toBe('web2');
    expect(labels.of(second)).toBe('web1 (22222222)');
  });
});
