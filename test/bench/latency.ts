// SPDX-License-Identifier: Apache-2.0

/**
 * From a record in the guest to a TypeScript handler on the host, on one guest: idle, against a bare round trip over virtio-serial;
 * in a stream; and for kills of the OOM killer, against their lines in the kernel log over a serial port.
 */

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { wallMsOf } from '../../host/guest/wall-clock.ts';
import { atLeast, atMost, median, quantile, report } from '../harness/figure.ts';
import { fixturePath, probePath, Rig } from '../harness/rig.ts';

const idleRounds = 200;
const streamed = 10_000;
const kills = 8;

interface Arrival {
  readonly event: string;
  readonly pid: unknown;
  /** Of the record, in host time. */
  readonly hostTimeMs: number;
  /** In the handler, in host time. */
  readonly handledMs: number;
  readonly errorUs: number;
}

const nowMs = (): number => wallMsOf(Number(process.hrtime.bigint()));

/** A port of virtio-serial behind which a process of the guest sends back what comes. */
class Echo {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  static async start(rig: Rig, path: string): Promise<Echo> {
    const socket = connect(path);
    await once(socket, 'connect');
    const device = await rig.machine.check(
      'basename $(dirname $(grep -l "^echo$" /sys/class/virtio-ports/*/name))',
    );
    // One open file for both directions: virtio_console allows no second.
    await rig.machine.start(`sh -c "exec cat <>/dev/${device} >&0"`);
    return new Echo(socket);
  }

  async roundTripMs(): Promise<number> {
    const before = performance.now();
    this.#socket.write('x');
    await once(this.#socket, 'data');
    return performance.now() - before;
  }
}

/** The kernel itself sends a signal each 100 ms, so that no process has to run; half-way between two goes the echo. */
async function idle(rig: Rig, arrivals: Arrival[], echo: Echo): Promise<void> {
  await rig.attach([probePath('6.1', 'signal')], ['signals=SIGWINCH']);
  const pid = await rig.machine.start('actor timebomb 500 28 100');
  const trips: number[] = [];
  arrivals.length = 0;
  while (arrivals.length < idleRounds) {
    const seen = arrivals.length;
    await rig.until(() => arrivals.length > seen, 'a signal');
    await sleep(50);
    trips.push(await echo.roundTripMs());
  }
  const waits = latencies(arrivals);
  await rig.machine.check(`kill -9 ${pid}`);
  await rig.guest.detach('signal', 'bench');
  report('latency_idle_median', median(waits), 'ms');
  report('latency_idle_p99', quantile(waits, 0.99), 'ms');
  report('latency_idle_clock_error', median(arrivals.map(({ errorUs }) => errorUs / 1e3)), 'ms');
  report('latency_virtio_serial_round_trip_median', median(trips), 'ms');
  report('latency_idle_to_round_trip', median(waits) / median(trips), '×', atMost(2));
}

async function streaming(rig: Rig, arrivals: Arrival[]): Promise<void> {
  arrivals.length = 0;
  await rig.attach([fixturePath('6.1', 'storm')], [`records=${streamed}`, 'rate=1000', 'start=1']);
  await rig.until(() => arrivals.some(({ event }) => event === 'finished'), 'the end of the stream');
  const blasts = arrivals.filter(({ event }) => event === 'blast');
  if (blasts.length !== streamed) throw new Error(`${blasts.length} of ${streamed} records arrived`);
  await rig.guest.detach('storm', 'bench');
  const waits = latencies(blasts.slice(streamed / 10));
  report('latency_streaming_median', median(waits), 'ms', atMost(0.5));
  report('latency_streaming_p99', quantile(waits, 0.99), 'ms');
  report('latency_streaming_clock_error', median(blasts.map(({ errorUs }) => errorUs / 1e3)), 'ms');
}

/**
 * Both from the time the kill's record bears. The kernel prints its report of some 60 lines first, marks the victim (the record) and
 * prints the line at once, under the victim's task_lock: on one processor the thread that rings the doorbell runs after it.
 */
async function oomKills(rig: Rig, arrivals: Arrival[]): Promise<void> {
  await rig.attach([probePath('6.1', 'oom')]);
  const toHandler: number[] = [];
  const toConsole: number[] = [];
  const sinceReport: number[] = [];
  for (let n = 0; n < kills; n++) {
    arrivals.length = 0;
    const position = rig.machine.consolePosition();
    const called = rig.machine.waitConsole(/invoked oom-killer/, 60_000, position).then(nowMs);
    const line = rig.machine
      .waitConsole(/Killed process (\d+).*\n/, 60_000, position)
      .then(([, pid]) => ({ pid: Number(pid), atMs: nowMs() }));
    await rig.machine.start('actor eat');
    const { pid, atMs } = await line;
    const killed = ({ event, pid: victim }: Arrival) => event === 'kill' && victim === pid;
    const kill = await rig.until(() => arrivals.find(killed), 'the kill');
    await rig.until(() => arrivals.some(({ event }) => event === 'gone'), 'the end of the victim');
    toHandler.push(kill.handledMs - kill.hostTimeMs);
    toConsole.push(atMs - kill.hostTimeMs);
    sinceReport.push(kill.hostTimeMs - (await called));
    // A heartbeat or two: the guest is quiet again, and the clocks are aligned.
    await sleep(2_000);
  }
  report('latency_oom_report_on_console_to_kill_median', median(sinceReport), 'ms');
  report('latency_oom_kill_to_handler_median', median(toHandler), 'ms');
  report('latency_oom_kill_to_console_median', median(toConsole), 'ms');
  report('latency_oom_kill_sooner_than_console', median(toConsole) / median(toHandler), '×', atLeast(40));
}

const latencies = (arrivals: readonly Arrival[]): readonly number[] =>
  arrivals.map(({ handledMs, hostTimeMs }) => handledMs - hostTimeMs);

const directory = mkdtempSync(join(tmpdir(), 'vesper-bench-'));
try {
  const arrivals: Arrival[] = [];
  const echoPath = join(directory, 'echo.sock');
  await using rig = await Rig.start({
    kernel: '6.1',
    qemuArguments: [
      ...['-chardev', `socket,id=echo,path=${echoPath},server=on,wait=off`],
      ...['-device', 'virtserialport,bus=virtio-serial0.0,chardev=echo,name=echo'],
    ],
    keepRow: (batch, row) => {
      const handledMs = nowMs();
      const { event, hostTimeMs, hostTimeErrorUs, fields } = batch.toEvent(row);
      arrivals.push({
        event,
        pid: fields['pid'],
        hostTimeMs,
        handledMs,
        errorUs: hostTimeErrorUs ?? Number.NaN,
      });
      return false;
    },
  });
  const echo = await Echo.start(rig, echoPath);
  await idle(rig, arrivals, echo);
  await streaming(rig, arrivals);
  await oomKills(rig, arrivals);
} finally {
  rmSync(directory, { recursive: true, force: true });
}
