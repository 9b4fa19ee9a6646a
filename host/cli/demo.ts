// SPDX-License-Identifier: Apache-2.0

/** `vesper demo`: a throw-away guest, and on it what VESPER does, from hot-plug to a clean end. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { guestView } from '../api/guest-view.ts';
import type { RelayView } from '../api/view.ts';
import { Machine } from '../demo/machine.ts';
import { VesperError } from '../error.ts';
import { eventJson, type VesperEvent } from '../guest/event.ts';
import { isoMicroseconds } from '../guest/wall-clock.ts';
import type { KernelKey } from '../kernel/release.ts';
import { silentLog } from '../log.ts';
import { QemuProvider } from '../provider/qemu/provider.ts';
import { RelayHub } from '../relay/hub.ts';
import { defaultHeartbeatMs } from '../service/config.ts';
import { Service } from '../service/service.ts';
import { builtCatalogueRoots } from './catalogue-roots.ts';
import { example } from './context.ts';
import { DemoReport } from './demo-report.ts';

interface Options {
  readonly json?: boolean;
  readonly keep?: boolean;
  readonly kernel: KernelKey;
  readonly machine: 'pc' | 'q35';
}

const eventLimitMs = 60_000;
const probes = ['signal', 'oom'];

export function demoCommand(): Command {
  return new Command('demo')
    .description('Boot a throw-away guest and show on it what VESPER does; leaves nothing behind.')
    .option('--json', 'print steps, events and the summary as NDJSON')
    .option('--keep', 'leave the guest up and say how to talk to it')
    .addOption(new Option('--kernel <series>', 'kernel of the guest').choices(['6.1', '6.12']).default('6.1'))
    .addOption(
      new Option('--machine <type>', 'QEMU machine of the guest').choices(['pc', 'q35']).default('pc'),
    )
    .addHelpText('after', example('vesper demo\nvesper demo --json | jq .'))
    .action((options: Options) => demo(options));
}

async function demo(options: Options): Promise<void> {
  const report = new DemoReport(options.json === true);
  const scratch = mkdtempSync(join(tmpdir(), 'vesper-demo-'));
  const interrupted = new AbortController();
  const interrupt = () => interrupted.abort(new VesperError('SESSION_ENDED', 'interrupted'));
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  try {
    await show(options, report, scratch, interrupted.signal);
  } catch (thrown) {
    interrupted.signal.throwIfAborted();
    throw thrown;
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function show(
  options: Options,
  report: DemoReport,
  scratch: string,
  signal: AbortSignal,
): Promise<void> {
  const machine = await report.step('boot a guest', async (detail) => {
    const booted = await Machine.boot({
      kernel: options.kernel,
      machine: options.machine,
      keep: options.keep === true,
      progress: detail,
    });
    detail(
      `${booted.options.kernel ?? options.kernel} kernel, ${options.machine}, 256 MiB, ${booted.accelerator.toUpperCase()}`,
    );
    return booted;
  });
  // What waits for the guest fails then, and what it has is taken down as after any failure.
  signal.addEventListener('abort', () => void machine.kill(), { once: true });
  const hub = new RelayHub();
  let service: Service | undefined;
  try {
    service = serviceFor(machine, scratch, hub);
    signal.throwIfAborted();
    await perform(service, machine, report, signal);
  } finally {
    if (options.keep !== true) await machine.kill();
    await service?.stop({ release: true });
    hub.close();
    if (options.keep !== true) await machine.close();
  }
  report.summary();
  if (options.keep === true) {
    machine.detach();
    report.kept(machine);
  }
}

function serviceFor(machine: Machine, scratch: string, hub: RelayHub): Service {
  const log = silentLog();
  return new Service({
    log,
    relays: hub,
    providers: [
      new QemuProvider({
        monitors: [{ path: machine.qmpPath, name: 'demo' }],
        runtimeDirectory: join(scratch, 'qemu'),
        log,
      }),
    ],
    config: {
      runDirectory: scratch,
      stateDirectory: join(scratch, 'state'),
      catalogueRoots: builtCatalogueRoots(),
      regionBytes: undefined,
      heartbeatMs: defaultHeartbeatMs,
    },
  });
}

async function perform(
  service: Service,
  machine: Machine,
  report: DemoReport,
  signal: AbortSignal,
): Promise<void> {
  const expected = new Expectations(signal);
  service.bus.add({
    name: 'demo',
    deliver: (batch) => {
      for (const row of batch.rowsInTime()) {
        const event = batch.toEvent(row);
        report.event(eventJson(event, isoMicroseconds));
        expected.see(event);
      }
    },
  });
  const guest = await report.step('hot-plug port and region, activate the frontend', async (detail) => {
    await service.start();
    const found = await service.guestFound('demo', eventLimitMs);
    const session = await found.active(eventLimitMs);
    detail(
      `${session.channelDescription}; kernel ${session.hello.kernel_release}; host times within ${Math.max(1, Math.ceil(session.clockErrorUs ?? Number.NaN))} µs`,
    );
    return found;
  });
  await report.step(`push probes ${probes.join(' and ')}`, async (detail) => {
    const results = await guest.attach(probes, [], { by: 'demo', selfTest: true, force: false });
    for (const result of results) {
      if (!result.ok) throw new VesperError('REFUSED', result.message);
      detail(`${result.message}, ${result.took_ms.toFixed(0)} ms`);
      for (const warning of result.warnings) detail(warning);
    }
  });
  await report.step('one process dies by SIGSEGV', async () => {
    const died = expected.next(
      (event) => event.event === 'died' && event.fields['signal'] === 'SIGSEGV',
      'signal.died of SIGSEGV',
    );
    await machine.run('actor --name webserver segv');
    await died;
  });
  await report.step('one process kills another with SIGKILL', async () => {
    const pid = await machine.start('actor --name database pause');
    const died = expected.next(
      (event) => event.event === 'died' && event.fields['signal'] === 'SIGKILL',
      'signal.died of SIGKILL',
    );
    await machine.run(`actor --name killer kill ${pid} 9`);
    await died;
  });
  await report.step('one process runs into the OOM killer', async () => {
    const killed = expected.next((event) => event.probe === 'oom' && event.event === 'kill', 'oom.kill');
    const gone = expected.next((event) => event.probe === 'oom' && event.event === 'gone', 'oom.gone');
    await machine.run('actor --name leaky eat', { timeoutMs: eventLimitMs });
    await Promise.all([killed, gone]);
  });
  await report.step('detach, unload, unplug', async (detail) => {
    for (const probe of [...probes].reverse()) {
      const result = await guest.detach(probe, 'demo');
      if (!result.ok) throw new VesperError('HOST', result.message);
      detail(result.message);
    }
    const { relay } = guestView(guest);
    if (relay !== null) report.losses(relay satisfies RelayView);
    await guest.close({ release: true });
  });
}

/** Waits for events that have to come. */
class Expectations {
  readonly #signal: AbortSignal;
  readonly #waiting = new Set<{
    readonly matches: (event: VesperEvent) => boolean;
    readonly arrived: () => void;
  }>();

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  see(event: VesperEvent): void {
    for (const waiting of this.#waiting) {
      if (!waiting.matches(event)) continue;
      this.#waiting.delete(waiting);
      waiting.arrived();
    }
  }

  next(matches: (event: VesperEvent) => boolean, what: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () =>
        reject(
          new VesperError('TIMEOUT', `the event ${what} did not arrive within ${eventLimitMs / 1000} s`),
        ),
      eventLimitMs,
    );
    this.#signal.addEventListener('abort', () => reject(this.#signal.reason as Error), { once: true });
    this.#waiting.add({
      matches,
      arrived: () => {
        clearTimeout(timer);
        resolve();
      },
    });
    // Whoever started it awaits it later; a step that fails before must not end the program through this one.
    promise.catch(() => undefined);
    return promise;
  }
}
