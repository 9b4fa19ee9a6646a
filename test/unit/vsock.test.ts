// SPDX-License-Identifier: Apache-2.0

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connectHybridVsock, connectVsock } from '../../host/channel/vsock.ts';
import { loadVsockAddon } from '../../host/channel/vsock-addon.ts';

let folder: string;
let path: string;
let server: Server;
let clients: Socket[];
let answer: (client: Socket, request: string) => void;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-hybrid-'));
  path = join(folder, 'vsock');
  clients = [];
  server = createServer((client) => {
    clients.push(client);
    client.on('error', () => {});
    client.once('data', (request: Buffer) => answer(client, request.toString()));
  });
  await new Promise<void>((listening) => server.listen(path, listening));
});

afterEach(() => {
  for (const client of clients) client.destroy();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

describe('hybrid vsock', () => {
  it('asks for the port, and carries bytes once it was given', async () => {
    answer = (client, request) => {
      expect(request).toBe('CONNECT 837\n');
      client.write('OK 1073741824\nfirst');
      client.on('data', (more: Buffer) => client.write(`echo ${more.toString()}`));
    };
    const channel = await connectHybridVsock(path);
    expect(channel.description).toBe(`vsock port 837 (${path})`);
    let text = '';
    const both = new Promise<void>((resolve) =>
      channel.onData((chunk) => {
        text += Buffer.from(chunk).toString();
        if (text.endsWith('more')) resolve();
      }),
    );
    await channel.write(Buffer.from('more'));
    await both;
    // What came in one piece with the answer is not lost.
    expect(text).toBe('firstecho more');
    const closed = new Promise((resolve) => channel.onClose(resolve));
    clients[0]?.end();
    expect(await closed).toMatch(/closed/);
  });

  it.each([
    ['hangs up', (client: Socket) => client.end(), 'UNREACHABLE', /no frontend listens: load vesper.ko/],
    ['hangs up in the middle', (client: Socket) => client.end('OK 1'), 'UNREACHABLE', /no frontend/],
    ['refuses', (client: Socket) => client.write('ERR no such port\n'), 'PROTOCOL', /"ERR no such port"/],
    ['says no number', (client: Socket) => client.write('OK then\n'), 'PROTOCOL', /"OK then"/],
    ['never ends its line', (client: Socket) => client.write('O'.repeat(1 << 20)), 'PROTOCOL', /"O{32}"/],
    ['says nothing', () => {}, 'TIMEOUT', /not answered within \d+ ms/],
  ])('the other side %s: an error in time, and nothing stays open', async (_, reply, code, message) => {
    answer = (client) => void reply(client);
    await expect(connectHybridVsock(path, { timeLimitMs: 200 })).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    await expect
      .poll(() => clients[0]?.destroyed || clients[0]?.readableEnded || clients[0]?.errored)
      .toBeTruthy();
  });

  it('nobody is there', async () => {
    await expect(connectHybridVsock(join(folder, 'none'))).rejects.toMatchObject({ code: 'UNREACHABLE' });
  });
});

describe("the host kernel's vsock", () => {
  it('a kernel without it: an error that says what to do', async () => {
    const call = () => {
      throw new Error('socket: Address family not supported by protocol');
    };
    await expect(connectVsock(5, {}, { call })).rejects.toMatchObject({
      code: 'HOST',
      message: expect.stringMatching(/no vsock sockets .*modprobe vhost_vsock/),
    });
  });

  it('the addon wants numbers', () => {
    expect(() => loadVsockAddon().call('3' as never, 837, 100)).toThrow(/a CID, a port/);
  });
});
