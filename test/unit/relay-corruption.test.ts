// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test } from 'vitest';
import { RelayHub } from '../../host/relay/hub.ts';
import { regionLayout, splitRegion } from '../../host/relay/layout.ts';
import type { Relay } from '../../host/relay/relay.ts';
import { checkRows, corruptionRounds, threadMs } from '../harness/corruption-rounds.ts';
import { epoch, RelayFixture } from '../harness/relay-fixture.ts';

describe('a region overwritten at random', () => {
  test('10,000 rounds between reads: rings are given up for every reason, and nothing else happens', () => {
    const outcome = corruptionRounds(new RelayFixture(), 10_000, 20_261_121);
    expect(outcome.records).toBeGreaterThan(50_000);
    expect(Object.keys(outcome.faults).sort()).toEqual([
      'crosses-end',
      'crosses-head',
      'head-behind-tail',
      'head-misaligned',
      'head-overrun',
      'length',
      'none',
      'padding',
      'sequence',
      'tag',
      'tail-invalid',
    ]);
    expect(outcome.tampered).toBeGreaterThan(1_000);
    expect(outcome.longestMs).toBeLessThan(200);
  }, 300_000);

  test('by another process while it is read: after 10,000 records and 500 broken rings the event loop never stood still', async () => {
    const regionBytes = 1 << 18;
    const layout = regionLayout({ regionBytes, cpuCount: 2, ...splitRegion(regionBytes, 2) });
    const fixture = new RelayFixture(layout);
    const script = fileURLToPath(new URL('../harness/region-vandal.ts', import.meta.url));
    const vandal = spawn(process.execPath, [script, fixture.path, String(regionBytes), String(epoch), '77'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => void vandal.kill('SIGKILL'));
    await once(vandal.stdout, 'data');

    const hub = new RelayHub();
    onTestFinished(() => hub.close());
    let records = 0;
    let broken = 0;
    let opened = 0;
    let refused = 0;
    let longestMs = 0;
    let relay: Relay | undefined;
    const started = performance.now();
    const enough = (): boolean =>
      records >= 10_000 && broken >= 500 && refused >= 20 && performance.now() - started > 3_000;
    while (!enough() && performance.now() - started < 60_000) {
      const before = threadMs();
      if (relay === undefined) {
        try {
          relay = hub.open({
            path: fixture.path,
            layout,
            epoch,
            onBatch: (batch) => {
              records += batch.count;
              checkRows(batch, layout.rings.length);
            },
            onHandlerError: (error) => {
              throw error;
            },
            onQuarantine: () => broken++,
          });
          opened++;
          relay.start();
        } catch (error) {
          // The header is overwritten too.
          expect(error).toMatchObject({ code: 'RELAY' });
          refused++;
        }
      } else {
        relay.wake();
        relay.drain();
        relay.drainBeyond();
        if (relay.statistics().quarantined > 2) {
          relay.close();
          relay = undefined;
        }
      }
      longestMs = Math.max(longestMs, threadMs() - before);
      await new Promise((resolve) => setImmediate(resolve));
    }
    relay?.close();
    expect(vandal.exitCode).toBeNull();
    expect(records).toBeGreaterThanOrEqual(10_000);
    expect(broken).toBeGreaterThanOrEqual(500);
    expect(opened).toBeGreaterThan(100);
    expect(refused).toBeGreaterThanOrEqual(20);
    expect(longestMs).toBeLessThan(500);
  }, 300_000);
});
