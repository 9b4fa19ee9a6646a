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
  /** At which of its beats it had its turn. */
  readonly turns: number[] = [];
  onBeat: (() => void) | undefined;

  beat(turn: boolean): void {
    this.beats += 1;
    if (turn) this.turns.push(this.beats);
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

  test('one is asked every ten beats, each in turn', () => {
    const { members } = joined(3);
    vi.advanceTimersByTime(60_000);
    expect(members.map(({ turns }) => turns)).toEqual([
      [10, 40],
      [20, 50],
      [30, 60],
    ]);
  });

  test.each([1, 6, 7, 40, 100])('of %i nobody waits longer than a minute', (count) => {
    const { members } = joined(count);
    vi.advanceTimersByTime(600_000);
    for (const { turns } of members) {
      expect(turns.length).toBeGreaterThanOrEqual(10);
      turns.forEach((turn, at) => {
        expect(turn - (turns[at - 1] ?? 0)).toBeLessThanOrEqual(60);
      });
    }
  });
});
