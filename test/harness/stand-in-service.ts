// SPDX-License-Identifier: Apache-2.0

/** A service as `vesper serve` is one, in a process of its own, whose guests are the stand-ins of a fleet: what it costs is its alone. */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient } from '../../host/api/client.ts';
import { ApiServer } from '../../host/api/server.ts';
import { silentLog } from '../../host/log.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import { apiSocketPath, defaultHeartbeatMs } from '../../host/service/config.ts';
import { Service } from '../../host/service/service.ts';
import { repository } from './rig.ts';
import { StandInProvider } from './stand-in-fleet.ts';

const patienceMs = 120_000;

export class StandInService implements AsyncDisposable {
  readonly client: ApiClient;
  readonly pid: number;
  /** From the start of the process until all guests had a session. */
  readonly activeMs: number;
  readonly #child: ChildProcess;
  readonly #gone: Promise<unknown>;

  private constructor(client: ApiClient, child: ChildProcess, gone: Promise<unknown>, activeMs: number) {
    this.client = client;
    this.pid = child.pid ?? -1;
    this.activeMs = activeMs;
    this.#child = child;
    this.#gone = gone;
  }

  /** Resolves when every one of the guests, whose peers run already, is active. */
  static async start(place: string, guests: number): Promise<StandInService> {
    const startedMs = performance.now();
    const child = fork(import.meta.filename, [place, String(guests)], {
      execArgv: ['--max-semi-space-size=2'],
    });
    const gone = once(child, 'exit');
    try {
      await Promise.race([
        once(child, 'message'),
        gone.then(() => {
          throw new Error('the service ended');
        }),
      ]);
      const client = new ApiClient(apiSocketPath(join(place, 'run')));
      const deadline = performance.now() + patienceMs;
      while ((await client.guests()).filter(({ state }) => state === 'active').length !== guests) {
        if (performance.now() > deadline) throw new Error('not all guests became active');
        await sleep(20);
      }
      return new StandInService(client, child, gone, performance.now() - startedMs);
    } catch (thrown) {
      child.kill('SIGKILL');
      await gone;
      throw thrown;
    }
  }

  /** User and system time so far, in seconds. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }

  /** Share of a processor that it takes for a while; V8 is given time before to give back what start and pushes took. */
  async idleShare(windowMs: number): Promise<number> {
    await sleep(20_000);
    const before = this.cpuSeconds();
    await sleep(windowMs);
    return (this.cpuSeconds() - before) / (windowMs / 1e3);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#gone;
  }
}

async function serve(place: string, guests: number): Promise<void> {
  const hub = new RelayHub();
  const service = new Service({
    log: silentLog(),
    relays: hub,
    providers: [new StandInProvider(place, guests)],
    config: {
      runDirectory: join(place, 'run'),
      stateDirectory: join(place, 'state'),
      catalogueRoots: [join(repository, 'build')],
      regionBytes: undefined,
      heartbeatMs: defaultHeartbeatMs,
    },
  });
  const api = new ApiServer(service);
  process.once('SIGTERM', async () => {
    await api.stop();
    await service.stop();
    hub.close();
    process.disconnect();
  });
  await api.start();
  await service.start();
  process.send?.('started');
}

if (import.meta.main) {
  const [place = '', guests] = process.argv.slice(2);
  await serve(place, Number(guests));
}
