// SPDX-License-Identifier: Apache-2.0

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Channel } from '../../host/channel/channel.ts';
import { encodeFrame, FrameParser } from '../../host/channel/frame.ts';
import { ClockAlignment } from '../../host/guest/clock.ts';
import { ControlLink } from '../../host/guest/control-link.ts';
import { Liveness } from '../../host/guest/liveness.ts';
import { protocolVersion } from '../../host/wire/message.ts';

const periodMs = 1_000;
const notConnected = -107;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** A guest that answers what it is asked, as long as it is told to. */
class Guest implements Channel {
  readonly description = 'test channel';
  asked = 0;
  answers = true;
  refusal: number | undefined;
  #say: (chunk: Uint8Array) => void = () => {};
  readonly #parser = new FrameParser({ from: 'host' });

  async write(bytes: Uint8Array): Promise<void> {
    for (const { requestId } of this.#parser.push(bytes)) {
      this.asked += 1;
      if (this.refusal !== undefined) {
        const error = { error: this.refusal, min_version: protocolVersion, max_version: protocolVersion };
        this.#say(encodeFrame('error', requestId, error, 'no session'));
      } else if (this.answers) {
        const now = process.hrtime.bigint();
        this.#say(encodeFrame('pong', requestId, { guest_received_ns: now, guest_sent_ns: now }));
      }
    }
  }
  onData(handler: (chunk: Uint8Array) => void): void {
    this.#say = handler;
  }
  onClose(): void {}
  close(): void {}
}

function watched() {
  const guest = new Guest();
  const told: string[] = [];
  const clock = new ClockAlignment();
  const link = new ControlLink(guest, 'web1', { unsolicited: () => {}, closed: () => {} });
  const liveness = new Liveness({
    link,
    clock,
    periodMs,
    heartbeatNs: () => 0,
    compareClocks: async () => undefined,
    onSilent: () => told.push('silent'),
    onAnswer: () => told.push('answers'),
    onDisowned: () => told.push('disowned'),
  });
  const beats = async (count: number) => {
    for (let beat = 0; beat < count; beat += 1) {
      liveness.check(false);
      await vi.advanceTimersByTimeAsync(periodMs);
    }
  };
  return { guest, told, clock, link, liveness, beats };
}

describe('a guest whose heartbeat cannot be seen', () => {
  test('is asked each time, and its answers align its clock', async () => {
    const { guest, told, clock, beats } = watched();
    await beats(4);
    expect(guest.asked).toBe(4);
    expect(clock.aligned).toBe(true);
    expect(told).toEqual([]);
  });

  test('is silent after three questions without an answer, once, and heard again at the first', async () => {
    const { guest, told, beats } = watched();
    guest.answers = false;
    await beats(2);
    expect(told).toEqual([]);
    await beats(6);
    expect(told).toEqual(['silent']);
    guest.answers = true;
    await beats(2);
    expect(told).toEqual(['silent', 'answers']);
  });

  test('after ten of them nothing it was asked is waited for any more', async () => {
    const { guest, link, beats } = watched();
    guest.answers = false;
    const hopeless = link.request('status', {}, 'status_report', { timeLimitMs: 3_600_000 });
    const failed = expect(hopeless).rejects.toMatchObject({ code: 'TIMEOUT' });
    await beats(11);
    await failed;
  });

  test('that has no session with us says so, once the session is over it means nothing', async () => {
    const { guest, told, liveness, beats } = watched();
    guest.refusal = notConnected;
    await beats(1);
    expect(told).toEqual(['disowned']);
    liveness.stop();
    await beats(1);
    expect(told).toEqual(['disowned']);
  });
});
