// SPDX-License-Identifier: Apache-2.0

/** Whoever else is at the channel or the API, and whatever they do: a clear error in bounded time, and no leak. */

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { encodeFrame, type Frame, FrameParser } from '../../host/channel/frame.ts';
import { Machine } from '../../host/demo/machine.ts';
import {
  frameHeader,
  frameMagic,
  limits,
  type MessageName,
  type PayloadOf,
} from '../../host/wire/message.ts';
import { encode } from '../../host/wire/struct.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { fixturePath, leftovers, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

/** A host that is not the service, at the channel of a real guest. */
class Stranger {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  bytes = 0;
  readonly #parser = new FrameParser({ from: 'guest' });
  #waiting: (() => void) | undefined;
  #nextId = 1;

  constructor(path: string) {
    this.socket = connect(path);
    this.socket.on('error', () => this.socket.destroy());
    this.socket.on('data', (chunk: Buffer) => {
      this.bytes += chunk.length;
      this.frames.push(...this.#parser.push(chunk));
      this.#waiting?.();
    });
  }

  /** Send a request, and wait for what answers it. */
  async ask<N extends MessageName>(name: N, payload: Partial<PayloadOf<N>>, tail?: string): Promise<Frame> {
    const id = this.#nextId++;
    this.socket.write(encodeFrame(name, id, payload, tail as never));
    return this.answer(({ requestId }) => requestId === id);
  }

  async answer(matches: (frame: Frame) => boolean): Promise<Frame> {
    const { promise, resolve, reject } = Promise.withResolvers<Frame>();
    const timer = setTimeout(() => reject(new Error(`no answer; ${this.frames.length} frames came`)), 20_000);
    this.#waiting = () => {
      const found = this.frames.find(matches);
      if (found !== undefined) resolve(found);
    };
    this.#waiting();
    return promise.finally(() => clearTimeout(timer));
  }

  async leave(): Promise<void> {
    this.socket.destroy();
    if (!this.socket.closed) await once(this.socket, 'close');
  }
}

describe('at the channel of a real guest', () => {
  let machine: Machine;
  let service: ServiceProcess;
  beforeAll(async () => {
    machine = await Machine.boot();
    service = new ServiceProcess(machine);
    await service.start();
    await service.guestUntil(({ state }) => state === 'active');
    await service.api.attach(machine.name, {
      probes: ['signal'],
      parameters: [],
      self_test: false,
      force: false,
    });
  });
  afterAll(() => service.close());

  /** The socket of the port, as QEMU made it. */
  function channelPath(): string {
    const folder = join(service.directory, 'qemu');
    const port = readdirSync(folder, { recursive: true }).find((name) => String(name).includes('/port-'));
    return join(folder, String(port));
  }

  function comes(): Stranger {
    const stranger = new Stranger(channelPath());
    onTestFinished(() => stranger.leave());
    return stranger;
  }

  /** A service has its session, with the probe, and reads from it. */
  async function wellServed(comm: string): Promise<void> {
    await service.guestUntil(({ state, probes }) => state === 'active' && probes[0]?.loaded === true);
    await machine.run(`actor --name ${comm} segv`);
    for await (const event of service.api.events({ since: '0', event: 'died', where: `comm=${comm}` })) {
      expect(event).toMatchObject({ guest: machine.name });
      break;
    }
    expect((await service.api.guest(machine.name)).relay).toMatchObject({ lost: 0, gaps: 0, undecodable: 0 });
    expectNoComplaints(machine.console());
  }

  test('a second client gets nothing and disturbs nobody', async () => {
    const stranger = comes();
    stranger.socket.write(encodeFrame('hello_request', 1, { min_version: 1, max_version: 1 }));
    await once(stranger.socket, 'connect');
    await wellServed('undisturbed');
    expect(stranger.bytes).toBe(0);
    await stranger.leave();
    expect((await service.api.guest(machine.name)).past).toEqual([]);
  });

  test('a stranger who holds the channel keeps the service out, which says so; then it gets in', async () => {
    await service.kill();
    const stranger = comes();
    await stranger.ask('hello_request', { min_version: 1, max_version: 1 });
    await service.start();
    const { state } = await service.guestUntil(({ reason }) =>
      /no frontend answers on the virtio-serial port .* or stop the other program that holds the channel/.test(
        reason,
      ),
    );
    expect(state).toBe('running');
    await stranger.leave();
    await wellServed('after-stranger');
  });

  test('what is no protocol is refused by the guest, request by request, and the service gets its session afterwards', async () => {
    await service.kill();
    const stranger = comes();
    const status = { name: 'status_report' };
    const refusal = (error: number, why: RegExp) => ({
      name: 'error',
      payload: { error },
      tail: expect.stringMatching(why),
    });

    expect(await stranger.ask('hello_request', { min_version: 2, max_version: 9 })).toMatchObject({
      ...refusal(-93, /another protocol version/),
      payload: { error: -93, min_version: 1, max_version: 1 },
    });
    expect(await stranger.ask('hello_request', { min_version: 1, max_version: 1 })).toMatchObject({
      name: 'hello',
    });

    const push = { slot: 7, kind: 1, image_bytes: 100, sha256: new Uint8Array(32), name: 'nothing' };
    for (const [change, error] of [
      [{ slot: limits.SLOTS.value }, -22],
      [{ image_bytes: 0 }, -22],
      [{ image_bytes: 0xffff_ffff }, -27],
      [{ args_bytes: 0xffff_ffff }, -7],
      [{ kind: 99 }, -95],
      [{ slot: 0 }, -16],
    ] as const) {
      expect(await stranger.ask('push_begin', { ...push, ...change })).toMatchObject({ payload: { error } });
    }
    // Announced, and then not sent; sent twice; sent beyond its end; another image than announced.
    expect(await stranger.ask('push_commit', { slot: 7 })).toMatchObject({
      name: 'loaded',
      payload: { error: -2 },
    });
    for (const [pieces, error] of [
      [[[0, 50]], -90],
      [
        [
          [0, 50],
          [0, 50],
        ],
        -84,
      ],
      [
        [
          [0, 50],
          [50, 500],
        ],
        -27,
      ],
      [[[0, 100]], -74],
    ] as const) {
      expect(await stranger.ask('push_begin', push)).toMatchObject({
        name: 'push_ready',
        payload: { error: 0 },
      });
      for (const [offset, bytes] of pieces)
        stranger.socket.write(encodeFrame('push_data', 0, { slot: 7, offset }, new Uint8Array(bytes)));
      expect(await stranger.ask('push_commit', { slot: 7 })).toMatchObject({
        name: 'loaded',
        payload: { error },
      });
    }
    for (const request of ['arm', 'self_test', 'unload'] as const) {
      expect(await stranger.ask(request, { slot: 0xffff_ffff })).toMatchObject(
        refusal(-22, /no such probe slot/),
      );
      const { payload } = (await stranger.ask(request, { slot: 9 })) as Frame<'unloaded'>;
      expect(payload.error).toBeLessThan(0);
    }
    for (const [change, error] of [
      [{ epoch: 0n }, -22],
      [{ backend: 4 }, -95],
      [{ backend: 2 }, -19],
      [{ backend: 3, ring_bytes: 5000 }, -22],
      [{ backend: 3, ring_bytes: 1 << 30 }, -7],
      [{ flags: 0xff }, -22],
      [{ flags: 1 }, -116],
      [{}, -19],
    ] as const) {
      const activate = {
        epoch: 5n,
        token: randomBytes(16),
        backend: 1,
        critical_ring_bytes: 4096,
        ring_bytes: 4096,
      };
      expect(await stranger.ask('activate', { ...activate, ...change })).toMatchObject({
        name: 'activated',
        payload: { error },
      });
    }
    const wholeRegion = limits.PAGES_MAX.value;
    for (const [bytes, error] of [
      [1, -22],
      [wholeRegion + 4096, -22],
      [2 ** 52, -22],
      [4096, 0],
      [8192, 0],
      [0, 0],
    ] as const) {
      expect(await stranger.ask('pages_request', { bytes: BigInt(bytes) })).toMatchObject({
        name: 'pages',
        payload: { error, bytes: error === 0 ? BigInt(bytes) : 0n },
      });
    }
    // Of rings that it does not have, or that are not sent.
    for (const consumed of [{ epoch: 5n }, { ring: 0xffff_ffff }, { tail: 2n ** 64n - 8n }])
      stranger.socket.write(encodeFrame('consumed', 0, consumed));
    expect(await stranger.ask('hello', {})).toMatchObject(refusal(-95, /no such request/));

    // A length beyond any frame, a checksum that is wrong, half a frame, and noise with all that in it.
    const header = { magic: frameMagic, version: 1, type: 21, request_id: 5, payload_length: 0xffff_fff0 };
    stranger.socket.write(encode(frameHeader, header));
    stranger.socket.write(encode(frameHeader, { ...header, payload_length: 8 }));
    stranger.socket.write(new Uint8Array(8));
    stranger.socket.write(encodeFrame('ping', 6, {}).subarray(0, 30));
    expect(await stranger.ask('status', {})).toMatchObject(status);
    const ping = encodeFrame('ping', 9, { host_time_ns: 1n });
    for (let round = 0; round < 64; round += 1) {
      stranger.socket.write(randomBytes(16 << 10));
      stranger.socket.write(ping.subarray(0, round % ping.length));
      const damaged = Buffer.from(ping);
      damaged[round % ping.length] = (damaged[round % ping.length] ?? 0) ^ 0x10;
      stranger.socket.write(damaged);
    }
    expect(await stranger.ask('status', {})).toMatchObject(status);
    await stranger.leave();

    await service.start();
    await wellServed('after-garbage');
  });

  test('a host that asks and never reads loses its session, nothing in the guest waits for it', async () => {
    await service.kill();
    const stranger = comes();
    await stranger.ask('hello_request', { min_version: 1, max_version: 1 });
    stranger.socket.pause();
    const position = machine.consolePosition();
    const ping = Buffer.concat(Array.from({ length: 1000 }, (_, at) => encodeFrame('ping', at + 1, {})));
    let written = 0;
    const flood = () => {
      while (written < 40 && stranger.socket.write(ping)) written += 1;
    };
    stranger.socket.on('drain', flood);
    flood();
    await machine.waitConsole(/vesper: the host (has read nothing|does not read)/, 30_000, position);
    await machine.check('true');
    await stranger.leave();

    await service.start();
    await wellServed('after-flood');
  });

  test('a second service on the same directory is refused, one on the same monitor waits its turn', async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'vesper-test-'));
    onTestFinished(() => rmSync(scratch, { recursive: true }));
    const monitor = ['--qemu', `${machine.name}=${machine.qmpPath}`];
    const [run, state] = [join(scratch, 'run'), join(scratch, 'state')];
    expect(await service.vesper('--run-dir', run, 'serve', ...monitor)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining(
        `another vesper service (process ${service.pid}) uses this state directory: stop it, or give this one another --state-dir`,
      ),
    });
    expect(await service.vesper('serve', '--state-dir', state, ...monitor)).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(
        /another vesper service answers on .*: stop it, or give this one another --run-dir/,
      ),
    });
    // They changed nothing.
    await wellServed('still-served');

    const second = new ServiceProcess(machine, join(scratch, 'second'));
    onTestFinished(async () => void (await second.kill()));
    await second.start();
    const busy = /qmp\.sock: no greeting from QEMU .* a monitor serves one client at a time/;
    await expect.poll(() => second.log, { timeout: 20_000 }).toMatch(busy);
    expect(await second.vesper('guests')).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/no guest yet/),
      stderr: expect.stringMatching(busy),
    });
    await service.kill();
    const guest = await second.guestUntil(
      ({ state, probes }) => state === 'active' && probes[0]?.loaded === true,
    );
    // What the other one loaded is known, and decoded: the catalogue has it.
    expect(guest.probes).toMatchObject([{ name: 'signal', loaded: true, wanted: true }]);
    await machine.run('actor --name inherited segv');
    for await (const event of second.api.events({ since: '0', event: 'died', where: 'comm=inherited' })) {
      expect(event).toMatchObject({ probe: 'signal' });
      break;
    }
    await second.kill('SIGTERM');
    await service.start();
    await wellServed('back-again');
  });

  test('QEMU stops before a push: an error in bounded time, no leak, and all is well when it goes on', async () => {
    const image = join(service.directory, 'bulky.ko');
    writeFileSync(image, Buffer.concat([readFileSync(fixturePath('6.1', 'bulky')), Buffer.alloc(800 << 10)]));
    const attach = { probes: [image], parameters: [], self_test: false, force: false };
    await service.api.attach(machine.name, attach);
    await service.api.detach(machine.name, ['bulky']);
    await service.guestUntil(({ state }) => state === 'active');
    const files = () => readdirSync(`/proc/${service.pid}/fd`).length;
    const before = files();

    process.kill(machine.pid, 'SIGSTOP');
    const answer = service.vesper('attach', machine.name, '--no-self-test', image);
    const stoppedAt = performance.now();
    try {
      const { status, stderr } = await answer;
      expect({ status, stderr }).toEqual({
        status: 3,
        stderr: expect.stringMatching(/did not answer push_begin|the guest read nothing|stopped answering/),
      });
      expect(performance.now() - stoppedAt).toBeLessThan(16_000);
      expect((await service.api.guest(machine.name)).state).not.toBe('active');
    } finally {
      process.kill(machine.pid, 'SIGCONT');
    }
    // The probe stays wanted, and comes with the next session.
    const guest = await service.guestUntil(({ probes }) => probes.every(({ loaded }) => loaded), 120_000);
    expect(guest.probes.map(({ name }) => name)).toEqual(['bulky', 'signal']);
    await service.api.detach(machine.name, ['bulky']);
    await expect.poll(files, { timeout: 10_000 }).toBe(before);
    await wellServed('going-on');
  });

  test('a reader of events that does not read is told what it lost, and holds up nobody', async () => {
    const before = await service.api.guest(machine.name);
    let kept = 0;
    for await (const _ of service.api.events({ since: '0', follow: '0' })) kept += 1;
    const reading = new AbortController();
    onTestFinished(() => reading.abort());
    const slow = service.api.events({ since: '0' }, reading.signal);
    // The first line is there: the reader is known to the service. It reads no more for now.
    expect(await slow.next()).toMatchObject({ done: false });
    const storm = {
      probes: [fixturePath('6.1', 'storm')],
      parameters: ['start=1', 'records=120000', 'rate=40000'],
      self_test: false,
      force: false,
    };
    expect(await service.api.attach(machine.name, storm)).toMatchObject([{ ok: true }]);
    // Everybody else gets theirs, and the service answers.
    for await (const event of service.api.events({ since: '0', event: 'finished' })) {
      expect(event).toMatchObject({ fields: { tried: 120_000 } });
      break;
    }
    const after = await service.guestUntil(
      ({ relay }) => relay !== null && relay.delivered + relay.lost >= 120_002,
    );
    expect(after).toMatchObject({ state: 'active', past: before.past });
    const passed = (after.relay?.delivered ?? 0) - (before.relay?.delivered ?? 0);

    const counts = { event: 1 - kept, lost: 0 };
    for await (const { type, count } of slow) {
      counts[type as 'event' | 'lost'] += Number(count ?? 1);
      if (counts.event + counts.lost >= passed) break;
    }
    expect(counts.event + counts.lost).toBe(passed);
    expect(counts.lost).toBeGreaterThan(0);
    expect(counts.event).toBeGreaterThan(0);
    await service.api.detach(machine.name, ['storm']);
    expect(
      Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${service.pid}/status`, 'utf8'))?.[1]),
    ).toBeLessThan(400 << 10);
  });
});
