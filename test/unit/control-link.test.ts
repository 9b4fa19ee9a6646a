// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import type { Channel } from '../../host/channel/channel.ts';
import { encodeFrame, FrameParser } from '../../host/channel/frame.ts';
import { ControlLink, type Unsolicited } from '../../host/guest/control-link.ts';
import { frameHeader, protocolVersion } from '../../host/wire/message.ts';

/** A channel whose other end is the test. */
class TestChannel implements Channel {
  readonly description = 'test channel';
  readonly written: ReturnType<FrameParser['push']> = [];
  readonly #parser = new FrameParser({ from: 'host' });
  #data: (chunk: Uint8Array) => void = () => {};
  #closed: (reason: string) => void = () => {};

  async write(bytes: Uint8Array): Promise<void> {
    this.written.push(...this.#parser.push(bytes));
  }
  onData(handler: (chunk: Uint8Array) => void): void {
    this.#data = handler;
  }
  onClose(handler: (reason: string) => void): void {
    this.#closed = handler;
  }
  close(): void {
    this.#closed('closed');
  }
  /** The guest says something. */
  say(bytes: Uint8Array): void {
    this.#data(bytes);
  }
  lastId(): number {
    return this.written.at(-1)?.requestId ?? 0;
  }
}

function linkOver(channel: TestChannel) {
  const unsolicited: Unsolicited[] = [];
  const closed: string[] = [];
  const link = new ControlLink(channel, 'web1', {
    unsolicited: (frame) => unsolicited.push(frame),
    closed: (reason) => closed.push(reason),
  });
  return { link, unsolicited, closed };
}

describe('control link', () => {
  test('a reply goes to the request with its id', async () => {
    const channel = new TestChannel();
    const { link } = linkOver(channel);
    const first = link.request('unload', { slot: 1 }, 'unloaded');
    const firstId = channel.lastId();
    const second = link.request('unload', { slot: 2 }, 'unloaded');
    channel.say(encodeFrame('unloaded', channel.lastId(), { slot: 2 }));
    channel.say(encodeFrame('unloaded', firstId, { slot: 1 }));
    expect((await first).payload.slot).toBe(1);
    expect((await second).payload.slot).toBe(2);
  });

  test('a guest that stops answering: TIMEOUT within the limit, its late answer is counted', async () => {
    const channel = new TestChannel();
    const { link } = linkOver(channel);
    await expect(link.request('status', {}, 'status_report', { timeLimitMs: 20 })).rejects.toMatchObject({
      code: 'TIMEOUT',
    });
    channel.say(encodeFrame('status_report', channel.lastId(), {}, []));
    expect(link.strayReplies).toBe(1);
  });

  test('half a frame of a guest that was reset does not swallow the answer behind it', async () => {
    const channel = new TestChannel();
    const { link } = linkOver(channel);
    const answer = link.request('ping', {}, 'pong', { timeLimitMs: 50 });
    channel.say(encodeFrame('error', 0, {}, 'x'.repeat(2000)).subarray(0, 1500));
    channel.say(encodeFrame('pong', channel.lastId(), { written: 7n }));
    expect((await answer).payload.written).toBe(7n);
  });

  test('another protocol version is said so, by an error frame and by the version of the frame itself', async () => {
    const channel = new TestChannel();
    const { link } = linkOver(channel);
    const refused = link.request('hello_request', {}, 'hello');
    channel.say(encodeFrame('error', channel.lastId(), { error: -93, min_version: 7, max_version: 9 }, 'no'));
    await expect(refused).rejects.toMatchObject({
      code: 'VERSION',
      message: expect.stringContaining('7 to 9'),
    });
    expect(protocolVersion).toBeLessThan(7);
  });

  test('the end of the channel ends every request, and later ones at once', async () => {
    const channel = new TestChannel();
    const { link, closed } = linkOver(channel);
    const waiting = link.request('status', {}, 'status_report');
    channel.close();
    await expect(waiting).rejects.toMatchObject({ code: 'SESSION_ENDED' });
    await expect(link.request('status', {}, 'status_report')).rejects.toMatchObject({
      code: 'SESSION_ENDED',
    });
    expect(closed).toEqual(['closed']);
  });

  test('an answer of the wrong kind is the protocol broken', async () => {
    const channel = new TestChannel();
    const { link } = linkOver(channel);
    const answer = link.request('status', {}, 'status_report');
    channel.say(encodeFrame('pong', channel.lastId(), {}));
    await expect(answer).rejects.toMatchObject({ code: 'PROTOCOL' });
  });

  test('what nobody asked for is handed on, garbage is counted', () => {
    const channel = new TestChannel();
    const { link, unsolicited } = linkOver(channel);
    channel.say(new Uint8Array(frameHeader.size).fill(0x41));
    channel.say(encodeFrame('doorbell', 0, { epoch: 5n }));
    expect(unsolicited.map(({ name }) => name)).toEqual(['doorbell']);
    expect(link.refused.bytes).toBe(frameHeader.size);
  });
});
