// SPDX-License-Identifier: Apache-2.0

/** The guest's heartbeat in its region: there without anyone asking, enough to be known alive, not enough to hide a dead channel. */

import { closeSync, openSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { Machine } from '../../host/demo/machine.ts';
import { kernelKeys } from '../../host/kernel/release.ts';
import { heartbeatMs, regionHeader } from '../../host/wire/region.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { leftovers, probePath, Rig, ServiceProcess } from '../harness/rig.ts';

afterAll(() => expect(leftovers()).toEqual([]));

/** The word in a guest's region, which can be read and forged. */
class Word {
  readonly #fd: number;
  readonly #raw = Buffer.alloc(8);

  constructor({ name }: Machine) {
    const [file] = readdirSync('/dev/shm').filter((entry) => entry.startsWith(`vesper-${name}`));
    this.#fd = openSync(join('/dev/shm', file ?? ''), 'r+');
    onTestFinished(() => closeSync(this.#fd));
  }

  get ns(): number {
    readSync(this.#fd, this.#raw, 0, 8, regionHeader.offsets.heartbeat_ns);
    return Number(this.#raw.readBigUInt64LE());
  }

  set ns(value: number) {
    this.#raw.writeBigUInt64LE(BigInt(Math.round(value)));
    writeSync(this.#fd, this.#raw, 0, 8, regionHeader.offsets.heartbeat_ns);
  }

  /** Resolves with the next value. */
  async next(): Promise<number> {
    const before = this.ns;
    await expect.poll(() => this.ns, { timeout: 30_000, interval: 5 }).not.toBe(before);
    return this.ns;
  }
}

describe.each(kernelKeys)('%s', (kernel) => {
  test('an idle guest beats once a second, and is hardly ever asked; without a service it goes on', async () => {
    const machine = await Machine.boot({ kernel });
    const service = new ServiceProcess(machine);
    onTestFinished(() => service.close());
    await service.start();
    await service.guestUntil(({ state }) => state === 'active');
    const word = new Word(machine);

    // All that an idle service writes are its questions, once the clocks are known well enough.
    const written = () =>
      Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${service.pid}/io`, 'utf8'))?.[1]);
    const beatsInSilence = async () => {
      const before = written();
      let beats = 0;
      while (written() === before && beats < 5) {
        await word.next();
        beats += 1;
      }
      return beats;
    };
    await expect.poll(beatsInSilence, { timeout: 90_000 }).toBe(5);

    await service.kill();
    const beats = [await word.next()];
    for (let n = 0; n < 5; n += 1) beats.push(await word.next());
    const periodsMs = beats.slice(1).map((beat, at) => (beat - (beats[at] ?? 0)) / 1e6);
    const meanMs = periodsMs.reduce((sum, period) => sum + period, 0) / periodsMs.length;
    expect(meanMs).toBeGreaterThan(heartbeatMs * 0.9);
    expect(meanMs).toBeLessThan(heartbeatMs * 1.5);
    expectNoComplaints(machine.console());
  });
});

test.each(kernelKeys)('%s: the clocks are known to microseconds', async (kernel) => {
  await using rig = await Rig.start({ kernel });
  await rig.until(() => rig.guest.session?.clock.settled, 'the rate of the clocks');
  // Records make the service look at the clocks anew.
  await rig.attach([probePath(kernel, 'signal')], ['signals=SIGWINCH']);
  await rig.machine.start('actor timebomb 500 28 100');
  await rig.event(({ hostTimeErrorUs }) => hostTimeErrorUs !== null && hostTimeErrorUs < 50);
});

test('a heartbeat without an answer does not hide that nobody answers; with one, all is well again', async () => {
  await using rig = await Rig.start({ heartbeatMs: 100 });
  const { guest, machine } = rig;
  await rig.until(() => guest.session?.clock.settled, 'the rate of the clocks');
  const { session } = guest;

  // Forged at the right pace, as by another CPU of a guest whose channel hangs.
  const word = new Word(machine);
  const aheadNs = word.ns - performance.now() * 1e6;
  process.kill(machine.pid, 'SIGSTOP');
  const forging = setInterval(() => (word.ns = aheadNs + performance.now() * 1e6), 20);
  onTestFinished(() => clearInterval(forging));
  try {
    await rig.until(() => rig.view.state === 'lost', 'the silence');
    expect(rig.view.reason).toMatch(/does not answer heartbeats/);
    expect(rig.view.health).toBe('silent');
  } finally {
    process.kill(machine.pid, 'SIGCONT');
  }
  await rig.until(() => rig.view.state === 'active', 'the end of the silence');
  expect(guest.session).toBe(session);
});

test('a guest that stops beating is asked, and found silent if it does not answer', async () => {
  await using rig = await Rig.start({ heartbeatMs: 300 });
  process.kill(rig.machine.pid, 'SIGSTOP');
  try {
    const stoppedAt = performance.now();
    await rig.until(() => rig.view.state === 'lost', 'the silence');
    // Three questions of 300 ms each, the first when a beat is half a second late; the rest is for a busy machine.
    expect(performance.now() - stoppedAt).toBeLessThan(20_000);
  } finally {
    process.kill(rig.machine.pid, 'SIGCONT');
  }
  await rig.until(() => rig.view.state === 'active', 'the end of the silence');
});

test('when a boot ended that no service saw, the region tells when it last lived', async () => {
  const machine = await Machine.boot();
  const service = new ServiceProcess(machine);
  onTestFinished(() => service.close());
  await service.start();
  await service.guestUntil(({ state }) => state === 'active');
  await service.kill();
  const word = new Word(machine);
  await word.next();
  const lastS = (await word.next()) / 1e9;
  await machine.reset();
  await service.start();
  const after = await service.guestUntil(({ state }) => state === 'active');
  const told = /last sign of life.* heartbeat_ns=(\d+)/.exec(service.log);
  expect(after.reason).toBe('activated');
  expect(Number(told?.[1]) / 1e9).toBeGreaterThanOrEqual(lastS - 1e-6);
  expect(Number(told?.[1]) / 1e9).toBeLessThan(lastS + 3);
});
