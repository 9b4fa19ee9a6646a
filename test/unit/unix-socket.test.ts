// SPDX-License-Identifier: Apache-2.0

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connectUnixSocket } from '../../host/channel/unix-socket.ts';

let folder: string;
let path: string;
let server: Server;
let accepted: Promise<Socket>;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-socket-'));
  path = join(folder, 'port');
  const { promise, resolve } = Promise.withResolvers<Socket>();
  accepted = promise;
  server = createServer({ pauseOnConnect: true }, resolve);
  await new Promise<void>((listening) => server.listen(path, listening));
});

afterEach(async () => {
  (await Promise.race([accepted, Promise.resolve(undefined)]))?.destroy();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

const closing = (channel: { onClose(handler: (reason: string) => void): void }) =>
  new Promise<string>((resolve) => channel.onClose(resolve));

describe('a channel over a unix socket', () => {
  it('carries bytes both ways and says what it is', async () => {
    const channel = await connectUnixSocket(path, { description: 'port of g1' });
    expect(channel.description).toBe('port of g1');
    const received = new Promise<string>((resolve) =>
      channel.onData((chunk) => resolve(Buffer.from(chunk).toString())),
    );
    const peer = await accepted;
    const seen = new Promise<string>((resolve) => peer.once('data', (chunk) => resolve(chunk.toString())));
    peer.resume();
    await channel.write(Buffer.from('ping'));
    expect(await seen).toBe('ping');
    peer.write('pong');
    expect(await received).toBe('pong');
    channel.close();
  });

  it('ends when the other end does, with the reason, and refuses writes from then on', async () => {
    const channel = await connectUnixSocket(path);
    channel.onData(() => {});
    const reason = closing(channel);
    (await accepted).destroy();
    expect(await reason).toBe('the other end closed the connection');
    await expect(channel.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'SESSION_ENDED' });
  });

  it('delivers what came before the end', async () => {
    const channel = await connectUnixSocket(path);
    let bytes = 0;
    channel.onData((chunk) => {
      bytes += chunk.length;
    });
    const reason = closing(channel);
    (await accepted).end(Buffer.alloc(100_000));
    await reason;
    expect(bytes).toBe(100_000);
  });

  it('tells its close once, also when it was closed before somebody asked', async () => {
    const channel = await connectUnixSocket(path);
    channel.close();
    channel.close();
    const reasons: string[] = [];
    channel.onClose((reason) => reasons.push(reason));
    await new Promise(setImmediate);
    expect(reasons).toEqual(['closed by the service']);
  });

  it('waits for a slow reader', async () => {
    const channel = await connectUnixSocket(path);
    const reason = closing(channel);
    let left = false;
    const writing = channel.write(Buffer.alloc(800_000)).then(() => {
      left = true;
    });
    const peer = await accepted;
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(left).toBe(false);
    peer.resume();
    await writing;
    channel.close();
    expect(await reason).toBe('closed by the service');
  });

  it('ends when the reader takes nothing for too long', async () => {
    const channel = await connectUnixSocket(path, { stallLimitMs: 50 });
    const reason = closing(channel);
    const writing = Promise.allSettled([
      channel.write(Buffer.alloc(900_000)),
      channel.write(Buffer.from('next')),
    ]);
    expect(await reason).toBe('the guest read nothing for 50 ms');
    expect(await writing).toMatchObject([
      { status: 'rejected', reason: { code: 'SESSION_ENDED' } },
      { status: 'rejected', reason: { code: 'SESSION_ENDED' } },
    ]);
  });

  it('ends instead of queueing without bound', async () => {
    const channel = await connectUnixSocket(path, { queueMaxBytes: 1_000_000 });
    const reason = closing(channel);
    const first = channel.write(Buffer.alloc(900_000));
    const second = channel.write(Buffer.alloc(200_000));
    await expect(second).rejects.toMatchObject({ code: 'TIMEOUT', data: { queuedBytes: 900_000 } });
    await expect(first).rejects.toMatchObject({ code: 'SESSION_ENDED' });
    expect(await reason).toBe('the guest does not read');
  });
});

describe('a connection that cannot be had', () => {
  it.each([
    ['no such socket', () => join(folder, 'nothing'), /there is no such socket/],
    ['a name too long', () => join(folder, 'n'.repeat(108)), /at most 107 bytes/],
    ['a file that is no socket', () => __filename, /nobody listens/],
  ])('%s', async (_, where, message) => {
    await expect(connectUnixSocket(where())).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringMatching(message),
    });
  });
});
