// SPDX-License-Identifier: Apache-2.0

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Beating, Heartbeat } from '../../host/guest/heartbeat.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

class Member implements Beating {
  beats = 0;
  /** At which of its beats it was to ask. */
  readonly asked: number[] = [];
  onBeat: (() => void) | undefined;

  beat(ask: boolean): void {
    this.beats += 1;
    if (ask) this.asked.push(this.beats);
    this.onBeat?.();
  }
}

function joined(count: number): { readonly heartbeat: Heartbeat; readonly members: readonly Member[] } {
  const heartbeat = new Heartbeat(1_000);
  const members = Array.from({ length: count }, () => new Member());
  for (const member of members) heartbeat.join(member);
  return { heartbeat, members };
}

describe('one heartbeat for all sessions', () => {
  test('however many they are, there is one timer, and none without a session', () => {
    const { heartbeat, members } = joined(50);
    expect(vi.getTimerCount()).toBe(1);
    vi.advanceTimersByTime(3_000);
    expect(members.map(({ beats }) => beats)).toEqual(Array(50).fill(3));
    for (const member of members) heartbeat.leave(member);
    expect(vi.getTimerCount()).toBe(0);
    heartbeat.leave(members[0] as Member);
    heartbeat.join(members[0] as Member);
    vi.advanceTimersByTime(1_000);
    expect(members[0]?.beats).toBe(4);
  });

  test('a session that ends in its beat, or in that of another, is left out at once', () => {
    const { heartbeat, members } = joined(3);
    const [first, second, third] = members as [Member, Member, Member];
    first.onBeat = () => {
      heartbeat.leave(first);
      heartbeat.leave(second);
    };
    vi.advanceTimersByTime(2_000);
    expect([first.beats, second.beats, third.beats]).toEqual([1, 0, 2]);
    third.onBeat = () => heartbeat.leave(third);
    vi.advanceTimersByTime(2_000);
    expect(third.beats).toBe(3);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('all are asked once a minute, in the same beat', () => {
    const { heartbeat, members } = joined(3);
    vi.advanceTimersByTime(30_000);
    const late = new Member();
    heartbeat.join(late);
    vi.advanceTimersByTime(100_000);
    for (const { asked } of members) expect(asked).toEqual([60, 120]);
    expect(late.asked).toEqual([30, 90]);
  });
});
