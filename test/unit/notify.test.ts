// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadSocketAddon } from '../../host/channel/native.ts';
import { silentLog } from '../../host/log.ts';
import { ServiceManager } from '../../host/service/notify.ts';
import { NotifySocket } from '../harness/notify-socket.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe('the service manager', () => {
  test.each(['in the file system', 'abstract'])(
    'is told ready, reloading, stopping; its socket %s',
    async (where) => {
      const path = where === 'abstract' ? `@vesper-test-${process.pid}` : join(directory, 'notify');
      await using socket = await NotifySocket.listen(path);
      const manager = new ServiceManager(silentLog(), { NOTIFY_SOCKET: path });
      manager.ready('2 guests');
      expect(await socket.next()).toBe('READY=1\nSTATUS=2 guests');
      const before = process.hrtime.bigint() / 1000n;
      manager.reloading();
      const [, usec = ''] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(await socket.next()) ?? [];
      expect(BigInt(usec) - before).toBeLessThan(60_000_000n);
      expect(BigInt(usec)).toBeGreaterThanOrEqual(before);
      manager.ready('one\nSTOPPING=1');
      expect(await socket.next()).toBe('READY=1\nSTATUS=one STOPPING=1');
      manager.stopping();
      expect(await socket.next()).toMatch(/^STOPPING=1\nSTATUS=/);
    },
  );

  test('has its watchdog fed from ready to stopping, when it is ours', async () => {
    const path = join(directory, 'notify');
    await using socket = await NotifySocket.listen(path);
    const environment = { NOTIFY_SOCKET: path, WATCHDOG_USEC: '20000' };
    const another = new ServiceManager(silentLog(), { ...environment, WATCHDOG_PID: '1' });
    another.ready('not watched');
    expect(await socket.next()).toMatch(/not watched/);
    const manager = new ServiceManager(silentLog(), { ...environment, WATCHDOG_PID: String(process.pid) });
    manager.ready('watched');
    expect(await socket.next()).toMatch(/watched/);
    for (let ping = 0; ping < 3; ping += 1) expect(await socket.next()).toBe('WATCHDOG=1');
    manager.stopping();
    let last = await socket.next();
    while (last === 'WATCHDOG=1') last = await socket.next();
    expect(last).toMatch(/^STOPPING=1/);
  });

  test('that is gone, or was never there, ends nothing', () => {
    new ServiceManager(silentLog(), { NOTIFY_SOCKET: join(directory, 'nobody') }).ready('alone');
    new ServiceManager(silentLog(), {}).ready('alone');
  });
});

describe('a unix socket', () => {
  test('knows the process that connected', async () => {
    const path = join(directory, 'socket');
    const server = createServer().listen(path);
    await once(server, 'listening');
    const script = `require('node:net').connect(${JSON.stringify(path)}).on('close', () => process.exit())`;
    const child: ChildProcess = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
    const [socket] = (await once(server, 'connection')) as [ReturnType<typeof connect>];
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
    expect(loadSocketAddon().peer(fd)).toEqual({
      pid: child.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
    });
    socket.destroy();
    await once(child, 'exit');
    server.close();
    expect(() => loadSocketAddon().peer(-1)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });
});
