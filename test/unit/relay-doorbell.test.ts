// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { Doorbell } from '../../host/relay/doorbell.ts';
import { loadRelayAddon } from '../../host/relay/native.ts';

const addon = loadRelayAddon();
let folder: string;
let pipe: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vesper-doorbell-'));
  pipe = join(folder, 'bell');
  addon.makeDoorbell(pipe);
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** Counts rings, and tells when there are `n`. */
class Rings {
  count = 0;
  #wanted = Number.POSITIVE_INFINITY;
  #reached = Promise.withResolvers<void>();

  readonly rang = () => {
    this.count++;
    if (this.count >= this.#wanted) this.#reached.resolve();
  };

  reach(n: number): Promise<void> {
    this.#wanted = n;
    this.#reached = Promise.withResolvers();
    if (this.count >= n) this.#reached.resolve();
    return this.#reached.promise;
  }
}

async function listening(rings: Rings): Promise<Doorbell> {
  const doorbell = await Doorbell.open(pipe, rings.rang);
  onTestFinished(() => doorbell.close());
  return doorbell;
}

const ring = () => writeFileSync(pipe, new Uint8Array(8));

describe('a doorbell', () => {
  test('is a pipe for its owner only', () => {
    const found = statSync(pipe);
    expect(found.isFIFO()).toBe(true);
    expect(found.mode & 0o777).toBe(0o600);
    expect(() => addon.makeDoorbell(pipe)).toThrow(
      expect.objectContaining({ code: 'EEXIST', syscall: 'mkfifo' }),
    );
  });

  test('rings each time the guest asks for it', async () => {
    const rings = new Rings();
    await listening(rings);
    for (let n = 1; n <= 5; n++) {
      ring();
      await rings.reach(n);
    }
    expect(rings.count).toBe(5);
  });

  test('rings that came while nobody listened are heard by who listens next', async () => {
    const rings = new Rings();
    // As a VMM does, that goes on while the service is down.
    const vmm = await listening(new Rings());
    const first = await listening(rings);
    first.close();
    vmm.close();
    const held = spawn('sh', ['-c', 'exec 3<>"$0"; printf 12345678 >&3; echo; exec sleep 60', pipe], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => void held.kill('SIGKILL'));
    await once(held.stdout, 'data');
    expect(rings.count).toBe(0);
    await listening(rings);
    await rings.reach(1);
  });

  test('of a guest that rings all the time is heard now and then: the event loop has time for others', async () => {
    const rings = new Rings();
    await listening(rings);
    const flood = spawn('dd', ['if=/dev/zero', `of=${pipe}`, 'bs=8'], { stdio: 'ignore' });
    onTestFinished(() => void flood.kill('SIGKILL'));
    await rings.reach(1);
    const [countBefore, startedMs] = [rings.count, performance.now()];
    await rings.reach(countBefore + 100);
    // Each is followed by a rest of 3 ms; Node's timers may be early by 1.
    expect(performance.now() - startedMs).toBeGreaterThan(100 * 2 - 3);
  });

  test('that was closed is silent', async () => {
    const rings = new Rings();
    const other = await listening(new Rings());
    const doorbell = await listening(rings);
    doorbell.close();
    other.close();
    doorbell.close();
    expect(rings.count).toBe(0);
  });
});

describe('a server of a region', () => {
  const region = () => {
    const path = join(folder, 'region');
    writeFileSync(path, new Uint8Array(4096));
    return path;
  };

  test('listens for its owner only, and leaves no socket behind', () => {
    const socket = join(folder, 'server');
    const server = new addon.RegionServer(socket, region(), pipe);
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    server.close();
    server.close();
    expect(existsSync(socket)).toBe(false);
  });

  test('says in the protocol of ivshmem servers who is who', async () => {
    const socket = join(folder, 'server');
    const server = new addon.RegionServer(socket, region(), pipe);
    onTestFinished(() => server.close());
    const client = connect(socket);
    onTestFinished(() => void client.destroy());
    const chunks: Buffer[] = [];
    client.on('data', (chunk) => chunks.push(chunk));
    await server.serve(7, 60_000);
    server.close();
    await once(client, 'end');
    const said = Buffer.concat(chunks);
    const numbers = Array.from({ length: said.length / 8 }, (_, i) => said.readBigInt64LE(i * 8));
    // Version, the guest's number, the host's with its doorbell, the memory.
    expect(numbers).toEqual([0n, 0n, 7n, -1n]);
  });

  test('to which nobody comes gives up', async () => {
    const server = new addon.RegionServer(join(folder, 'server'), region(), pipe);
    onTestFinished(() => server.close());
    await expect(server.serve(1, 10)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  });

  test('that is closed while it waits gives up at once', async () => {
    const server = new addon.RegionServer(join(folder, 'server'), region(), pipe);
    const waiting = server.serve(1, 600_000);
    setImmediate(() => server.close());
    await expect(waiting).rejects.toMatchObject({ syscall: 'accept' });
    await expect(server.serve(1, 10)).rejects.toMatchObject({ code: 'EBADF' });
  });

  test('says what it lacks', () => {
    const socket = join(folder, 'server');
    const none = join(folder, 'none');
    const failing = (...paths: [string, string, string]) => expect(() => new addon.RegionServer(...paths));
    failing(socket, none, pipe).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    failing(socket, region(), none).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    failing(pipe, region(), pipe).toThrow(expect.objectContaining({ code: 'EADDRINUSE' }));
    failing(`/${'x'.repeat(200)}`, region(), pipe).toThrow(expect.objectContaining({ code: 'ENAMETOOLONG' }));
    expect(existsSync(socket)).toBe(false);
  });
});
