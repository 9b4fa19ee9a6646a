// SPDX-License-Identifier: Apache-2.0

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { QmpClient, type QmpEvent, refusalText } from '../../host/provider/qemu/qmp.ts';

const greeting =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}\r\n';

interface Command {
  readonly execute: string;
  readonly id: number;
}

/** A mock of QEMU's monitor: plays what a test tells it, so that it can be slow, broken or hostile. */
class MockMonitor {
  readonly path: string;
  readonly commands: Command[] = [];
  readonly #server: Server;
  readonly #sockets: Socket[] = [];
  #answer: (command: Command, socket: Socket) => void = () => {};

  constructor(path: string, onConnection: string | ((socket: Socket) => void) = greeting) {
    this.path = path;
    this.#server = createServer((socket) => {
      this.#sockets.push(socket);
      socket.on('error', () => {});
      if (typeof onConnection === 'string') socket.write(onConnection);
      else onConnection(socket);
      socket.on('data', (chunk) => {
        for (const line of chunk.toString().trim().split('\n'))
          this.#receive(JSON.parse(line) as Command, socket);
      });
    }).listen(path);
  }

  /** What it does on a command other than the negotiation. */
  onCommand(answer: (command: Command, socket: Socket) => void): void {
    this.#answer = answer;
  }

  #receive(command: Command, socket: Socket): void {
    this.commands.push(command);
    if (command.execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${command.id}}\r\n`);
    else this.#answer(command, socket);
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

let folder: string;
let monitor: MockMonitor | undefined;
let client: QmpClient | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-qmp-'));
});

afterEach(() => {
  client?.close();
  monitor?.close();
  rmSync(folder, { recursive: true, force: true });
});

const mock = (onConnection?: string | ((socket: Socket) => void)): MockMonitor => {
  monitor = new MockMonitor(join(folder, 'g1.qmp'), onConnection);
  return monitor;
};

describe('a monitor', () => {
  it('greets, and is put into command mode', async () => {
    client = await QmpClient.connect(mock().path);
    expect(client.version).toBe('7.2.22');
    expect(monitor?.commands.map(({ execute }) => execute)).toEqual(['qmp_capabilities']);
  });

  it('answers commands in any order', async () => {
    const waiting: Command[] = [];
    mock().onCommand((command, socket) => {
      waiting.push(command);
      if (waiting.length < 3) return;
      for (const { execute, id } of waiting.reverse())
        socket.write(`{"return": "${execute}", "id": ${id}}\r\n`);
    });
    client = await QmpClient.connect(join(folder, 'g1.qmp'));
    const answers = ['a', 'b', 'c'].map((command) => (client as QmpClient).execute(command));
    expect(await Promise.all(answers)).toEqual(['a', 'b', 'c']);
  });

  it('sends many lines in one piece and one line in many pieces', async () => {
    const events: QmpEvent[] = [];
    mock().onCommand(({ id }, socket) => {
      const bytes = Buffer.from(
        `{"event": "STOP"}\r\n{"event": "RESET", "data": {"guest": true}}\r\n{"return": "naïve – 名", "id": ${id}}\r\n`,
      );
      socket.write(bytes.subarray(0, 60));
      let at = 60;
      const drip = () => {
        socket.write(bytes.subarray(at, at + 1));
        at += 1;
        if (at < bytes.length) setImmediate(drip);
      };
      drip();
    });
    client = await QmpClient.connect(join(folder, 'g1.qmp'), { onEvent: (event) => events.push(event) });
    expect(await client.execute('x')).toBe('naïve – 名');
    expect(events).toEqual([
      { name: 'STOP', data: {} },
      { name: 'RESET', data: { guest: true } },
    ]);
  });

  it('refuses a command: class and words are kept', async () => {
    mock().onCommand(({ id }, socket) =>
      socket.write(`{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": ${id}}\r\n`),
    );
    client = await QmpClient.connect(join(folder, 'g1.qmp'));
    const refusal = await client.execute('device_del', { id: 'x' }).catch((error: unknown) => error);
    expect(refusal).toMatchObject({
      code: 'PROVIDER',
      message: expect.stringContaining("QEMU refused device_del: Device 'x' not found"),
      data: { command: 'device_del', class: 'DeviceNotFound', desc: "Device 'x' not found" },
    });
    expect(refusalText(refusal)).toBe("Device 'x' not found");
  });

  it('returns something else than was asked for', async () => {
    mock().onCommand(({ id }, socket) => socket.write(`{"return": {"status": 7}, "id": ${id}}\r\n`));
    client = await QmpClient.connect(join(folder, 'g1.qmp'));
    await expect(client.execute('query-status', {}, z.object({ status: z.string() }))).rejects.toMatchObject({
      code: 'PROVIDER',
      message: expect.stringContaining("QEMU's answer to query-status is not understood"),
    });
  });
});

describe('a monitor that does not answer', () => {
  it('because it serves somebody else: no greeting, a sentence that says so', async () => {
    await expect(QmpClient.connect(mock('').path, { connectLimitMs: 50 })).rejects.toMatchObject({
      code: 'TIMEOUT',
      message: expect.stringContaining('a monitor serves one client at a time'),
    });
  });

  it('to one command: that one fails in time, its late answer is nobody else’s, others go on', async () => {
    let late: (() => void) | undefined;
    mock().onCommand(({ execute, id }, socket) => {
      if (execute === 'slow') late = () => socket.write(`{"return": "late", "id": ${id}}\r\n`);
      else socket.write(`{"return": "quick", "id": ${id}}\r\n`);
    });
    client = await QmpClient.connect(join(folder, 'g1.qmp'), { commandLimitMs: 40 });
    await expect(client.execute('slow')).rejects.toMatchObject({
      code: 'TIMEOUT',
      data: { command: 'slow' },
    });
    late?.();
    expect(await client.execute('next')).toBe('quick');
  });

  it('because nobody listens', async () => {
    await expect(QmpClient.connect(join(folder, 'nothing'))).rejects.toMatchObject({ code: 'UNREACHABLE' });
  });
});

describe('a monitor that ends or is no monitor', () => {
  it('in the middle of a command: the command fails, and the end is told once', async () => {
    mock().onCommand((_, socket) => socket.destroy());
    const reasons: string[] = [];
    client = await QmpClient.connect(join(folder, 'g1.qmp'), { onClose: (reason) => reasons.push(reason) });
    const both = await Promise.allSettled([client.execute('a'), client.execute('b')]);
    expect(both).toMatchObject([{ reason: { code: 'UNREACHABLE' } }, { reason: { code: 'UNREACHABLE' } }]);
    await expect(client.execute('c')).rejects.toMatchObject({ code: 'UNREACHABLE' });
    expect(reasons).toEqual(['QEMU closed its monitor']);
  });

  it('before the greeting', async () => {
    await expect(QmpClient.connect(mock((socket) => socket.destroy()).path)).rejects.toMatchObject({
      code: 'UNREACHABLE',
    });
  });

  it('speaks something else', async () => {
    await expect(QmpClient.connect(mock('SSH-2.0-OpenSSH_9.2\r\n').path)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('it does not speak QMP: "SSH-2.0-OpenSSH_9.2"'),
    });
  });

  it('sends a line without end: closed, not collected', async () => {
    mock().onCommand((_, socket) => {
      socket.write(`{"event": "${'x'.repeat(3_000)}`);
    });
    client = await QmpClient.connect(join(folder, 'g1.qmp'), { lineMaxBytes: 2_000 });
    await expect(client.execute('x')).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringMatching(/a line of more than \d+ bytes/),
    });
    expect(client.closed).toBe(true);
  });
});
