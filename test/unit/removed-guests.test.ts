// SPDX-License-Identifier: Apache-2.0

/** A guest that nobody names any more: the service forgets it, and with it its series. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { silentLog } from '../../host/log.ts';
import type { Machine, ProviderEvents } from '../../host/provider/provider.ts';
import { MonitorWatch } from '../../host/provider/qemu/monitor-watch.ts';
import { Service } from '../../host/service/service.ts';

const keptMs = 3_600_000;

/** A machine that does not run: nothing is asked of it. */
const stopped = (name: string, uuid: string): Machine =>
  ({ name, uuid, provider: 'test', state: 'stopped', release: async () => {} }) as unknown as Machine;

async function serve(): Promise<{ readonly service: Service; readonly events: ProviderEvents }> {
  const directory = mkdtempSync(join(tmpdir(), 'vesper-removed-'));
  const told = Promise.withResolvers<ProviderEvents>();
  const service = new Service({
    log: silentLog(),
    relays: {
      open: () => {
        throw new Error('no guest runs');
      },
    },
    providers: [{ name: 'test', start: async (events) => told.resolve(events), stop: async () => {} }],
    config: {
      runDirectory: join(directory, 'run'),
      stateDirectory: join(directory, 'state'),
      catalogueRoots: [],
      regionBytes: 1 << 20,
      heartbeatMs: 1_000,
    },
  });
  onTestFinished(async () => {
    await service.stop();
    rmSync(directory, { recursive: true });
  });
  await service.start();
  return { service, events: await told.promise };
}

describe('a service that is told that a guest was removed', () => {
  test('no longer shows it, nor its series; the others stay', async () => {
    const { service, events } = await serve();
    const [gone, stays] = [stopped('web1', '11111111-a'), stopped('db1', '22222222-b')];
    for (const machine of [gone, stays]) {
      events.machineFound(machine);
      const { name: guest, uuid } = machine;
      const load = {
        action: 'load',
        guest,
        uuid,
        probe: 'signal',
        sha256: '',
        args: '',
        by: 'test',
      } as const;
      service.metrics.told({ ...load, result: 'loaded' });
    }
    expect(await service.metrics.page()).toMatch(/^vesper_probe_pushes_total\{guest="web1"/m);
    events.lifecycle(gone, { kind: 'removed' });
    const page = await service.metrics.page();
    expect(page).not.toContain('web1');
    expect(page).toMatch(/^vesper_guest_state\{guest="db1",state="stopped"\} 1$/m);
    expect(page).toMatch(/^vesper_probe_pushes_total\{guest="db1"/m);
    expect(service.guests().map(({ machine }) => machine.name)).toEqual(['db1']);

    // Its name is free again.
    events.machineFound(stopped('web1', '33333333-c'));
    expect(await service.metrics.page()).toMatch(/^vesper_guest_info\{guest="web1",uuid="33333333-c"/m);
  });

  test('but knows it by another machine meanwhile: it stays', async () => {
    const { service, events } = await serve();
    const [before, now] = [stopped('web1', '11111111-a'), stopped('web1', '11111111-a')];
    events.machineFound(before);
    events.machineFound(now);
    events.lifecycle(before, { kind: 'removed' });
    expect(service.guests()).toHaveLength(1);
  });
});

describe('a monitor without a socket', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function watchOf() {
    const forgotten = vi.fn();
    const watch = new MonitorWatch('/nowhere/web1.qmp', {
      directories: { run: '/nowhere', region: '/nowhere' },
      connectLimitMs: 1_000,
      commandLimitMs: 1_000,
      unplugLimitMs: 1_000,
      removedKeptMs: keptMs,
      hybridVsockPaths: new Map(),
      log: silentLog(),
      events: { machineFound: () => {}, lifecycle: () => {} },
      onLost: () => {},
      onForgotten: forgotten,
    });
    return { watch, forgotten };
  }

  test('is given up after its time, unless the socket comes back', () => {
    const { watch, forgotten } = watchOf();
    watch.present = false;
    watch.expire();
    vi.advanceTimersByTime(keptMs - 1);
    watch.present = true;
    watch.expire();
    vi.advanceTimersByTime(2 * keptMs);
    watch.present = false;
    watch.expire();
    vi.advanceTimersByTime(keptMs / 2);
    watch.expire();
    expect(forgotten).not.toHaveBeenCalled();
    vi.advanceTimersByTime(keptMs / 2);
    expect(forgotten).toHaveBeenCalledOnce();
    expect(vi.getTimerCount()).toBe(0);
  });

  test('and a provider that stops leaves no timer', () => {
    const { watch, forgotten } = watchOf();
    watch.present = false;
    watch.expire();
    watch.stop();
    watch.expire();
    vi.advanceTimersByTime(2 * keptMs);
    expect(forgotten).not.toHaveBeenCalled();
    expect(vi.getTimerCount()).toBe(0);
  });
});
