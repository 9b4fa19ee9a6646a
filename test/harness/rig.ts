// SPDX-License-Identifier: Apache-2.0

/**
 * A real guest and a real service for a test: boots the guest, starts the service in this process or in one of its own, keeps
 * every event, and takes all of it down again, also after a failure.
 */

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { ApiClient } from '../../host/api/client.ts';
import { guestView } from '../../host/api/guest-view.ts';
import type { GuestView, ProbeResult } from '../../host/api/view.ts';
import { Machine, type MachineOptions } from '../../host/demo/machine.ts';
import type { VesperEvent } from '../../host/guest/event.ts';
import type { EventBatch } from '../../host/guest/event-batch.ts';
import type { RelayBackend } from '../../host/guest/relay-backend.ts';
import { silentLog } from '../../host/log.ts';
import { QemuProvider } from '../../host/provider/qemu/provider.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import type { Sink } from '../../host/service/bus.ts';
import { apiSocketPath, type PacemakerConfig } from '../../host/service/config.ts';
import type { ManagedGuest } from '../../host/service/managed-guest.ts';
import { Service } from '../../host/service/service.ts';

export const repository = resolve(import.meta.dirname, '../..');
const build = join(repository, 'build');

/** Of the kernel releases that were built, the one of a series. */
export function releaseOf(series: string): string {
  const release = readdirSync(build).find((name) => name.startsWith(`${series}.`));
  if (release === undefined) throw new Error(`no modules are built for ${series}: run make build`);
  return release;
}

export const probePath = (series: string, name: string): string =>
  join(build, releaseOf(series), `${name}.ko`);
export const fixturePath = (series: string, name: string): string =>
  join(build, releaseOf(series), 'fixtures', `${name}.ko`);

export interface RigOptions extends MachineOptions {
  readonly regionBytes?: number;
  readonly relayBackend?: RelayBackend;
  readonly heartbeatMs?: number;
  /** Which rows are kept as objects in `events`; all unless given. For those that count millions over columns. */
  readonly keepRow?: (batch: EventBatch, row: number) => boolean;
  /** Gets all batches of all services from their first one on. */
  readonly sink?: Sink;
  /** Unix socket of the process that does the guest's vsock. */
  readonly hybridVsockPath?: string;
  /** The cluster that is to hear of what happens; a service in this process only. */
  readonly pacemaker?: PacemakerConfig;
  /** Further guests of the same service, booted already; the rig closes them. */
  readonly neighbours?: readonly Machine[];
}

const patienceMs = 90_000;

/** Guest and service in this process. */
export class Rig implements AsyncDisposable {
  readonly machine: Machine;
  readonly events: VesperEvent[] = [];
  readonly directory: string;
  service: Service;
  #hub: RelayHub;
  readonly #options: RigOptions;
  readonly #waiting = new Set<() => void>();

  private constructor(machine: Machine, options: RigOptions) {
    this.machine = machine;
    for (const one of [machine, ...(options.neighbours ?? [])]) used.add(one);
    this.directory = mkdtempSync(join(tmpdir(), rigPrefix));
    this.#options = options;
    this.#hub = new RelayHub();
    this.service = this.#newService();
  }

  /** Boots; the service is not started yet. */
  static async boot(options: RigOptions = {}): Promise<Rig> {
    return new Rig(await Machine.boot(options), options);
  }

  /** Boots, starts the service and waits for the session. */
  static async start(options: RigOptions = {}): Promise<Rig> {
    return Rig.serve(await Machine.boot(options), options);
  }

  /** The same for a machine that has booted; `begun` instead of a session where that cannot be had at once. */
  static async serve(
    machine: Machine,
    options: RigOptions = {},
    begun = (rig: Rig): Promise<unknown> => rig.active(),
  ): Promise<Rig> {
    const rig = new Rig(machine, options);
    try {
      await rig.service.start();
      await begun(rig);
    } catch (thrown) {
      await rig.close();
      throw thrown;
    }
    return rig;
  }

  get guest(): ManagedGuest {
    return this.service.guest(this.machine.name);
  }

  get view(): GuestView {
    return guestView(this.guest);
  }

  /** False: the host reads again only when a guest rings, or a heartbeat is due. */
  get relayAwake(): boolean {
    return this.#hub.awake > 0;
  }

  async active(): Promise<void> {
    await (await this.service.guestFound(this.machine.name, patienceMs)).active(patienceMs);
  }

  /** Attach; throws where one was refused. */
  async attach(
    probes: readonly string[],
    parameters: readonly string[] = [],
  ): Promise<readonly ProbeResult[]> {
    const results = await this.tryAttach(probes, parameters);
    const refused = results.find(({ ok }) => !ok);
    if (refused !== undefined) throw new Error(refused.message);
    return results;
  }

  tryAttach(
    probes: readonly string[],
    parameters: readonly string[] = [],
    force = false,
  ): Promise<readonly ProbeResult[]> {
    return this.guest.attach(probes, parameters, { by: 'test', selfTest: false, force });
  }

  /** The first event, had or yet to come, of which `matches` holds. */
  event(matches: (event: VesperEvent) => boolean, timeLimitMs = patienceMs): Promise<VesperEvent> {
    return this.until(() => this.events.find(matches), 'the event', timeLimitMs);
  }

  /** Wait until `look` gives something; looked at after each batch and each change of state. */
  until<T>(look: () => T | undefined | false, what: string, timeLimitMs = patienceMs): Promise<T> {
    const { promise, resolve: settle, reject } = Promise.withResolvers<T>();
    const check = () => {
      const found = look();
      if (found === undefined || found === false) return;
      clearTimeout(timer);
      clearInterval(slow);
      this.#waiting.delete(check);
      settle(found);
    };
    const timer = setTimeout(() => {
      clearInterval(slow);
      this.#waiting.delete(check);
      reject(new Error(`${what} did not come within ${timeLimitMs} ms; state: ${JSON.stringify(this.view)}`));
    }, timeLimitMs);
    const slow = setInterval(check, 20);
    this.#waiting.add(check);
    check();
    return promise;
  }

  /**
   * Ends the service as `vesper serve` would, and starts another with the same state. `frozen`: the guest stands still, at
   * whatever instruction, while the service ends.
   */
  async restartService({ frozen = false } = {}): Promise<void> {
    if (frozen) process.kill(this.machine.pid, 'SIGSTOP');
    try {
      await this.service.stop();
    } finally {
      if (frozen) process.kill(this.machine.pid, 'SIGCONT');
    }
    this.#hub.close();
    this.#hub = new RelayHub();
    this.service = this.#newService();
    await this.service.start();
    await this.active();
  }

  async close(): Promise<void> {
    // The machines first: their service sees them die, and removes what it had plugged.
    const machines = [this.machine, ...(this.#options.neighbours ?? [])];
    await Promise.all(machines.map((machine) => machine.kill()));
    const gone = () => this.service.guests().every(({ state }) => state === 'stopped');
    await this.until(gone, 'the end of the guests').catch(() => undefined);
    await this.service.stop();
    this.#hub.close();
    await Promise.all(machines.map((machine) => machine.close()));
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #newService(): Service {
    const log = silentLog();
    const { hybridVsockPath } = this.#options;
    const service = new Service({
      log,
      relays: this.#hub,
      providers: [
        new QemuProvider({
          monitors: [this.machine, ...(this.#options.neighbours ?? [])].map(({ qmpPath, name }) => ({
            path: qmpPath,
            name,
          })),
          hybridVsockPaths: new Map(
            hybridVsockPath === undefined ? [] : [[this.machine.name, hybridVsockPath]],
          ),
          runtimeDirectory: join(this.directory, 'qemu'),
          log,
        }),
      ],
      config: {
        runDirectory: join(this.directory, 'run'),
        stateDirectory: join(this.directory, 'state'),
        catalogueRoots: [build],
        regionBytes: this.#options.regionBytes,
        relayBackend: this.#options.relayBackend,
        heartbeatMs: this.#options.heartbeatMs ?? 1_000,
        pacemaker: this.#options.pacemaker,
      },
    });
    service.bus.add({ name: 'test', deliver: (batch) => this.#keep(batch) });
    if (this.#options.sink !== undefined) service.bus.add(this.#options.sink);
    return service;
  }

  #keep(batch: EventBatch): void {
    const { keepRow } = this.#options;
    for (let row = 0; row < batch.length; row += 1)
      if (keepRow === undefined || keepRow(batch, row)) this.events.push(batch.toEvent(row));
    for (const check of [...this.#waiting]) check();
  }
}

export interface ServiceProcessOptions {
  /** Configuration file, which has to name the guest; without one the guest is named on the command line. */
  readonly config?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** Further arguments of `vesper serve`. */
  readonly more?: readonly string[];
  /** The command that runs `vesper` with such an environment; that of this source tree unless given. */
  readonly program?: (environment: Readonly<Record<string, string>>) => readonly string[];
}

/** `vesper serve` as a process of its own, which can be killed. */
export class ServiceProcess implements AsyncDisposable {
  readonly directory: string;
  readonly api: ApiClient;
  readonly #machine: Machine;
  readonly #options: ServiceProcessOptions;
  #child: ChildProcess | undefined;
  log = '';

  constructor(
    machine: Machine,
    directory: string = mkdtempSync(join(tmpdir(), rigPrefix)),
    options: ServiceProcessOptions = {},
  ) {
    this.directory = directory;
    this.#machine = machine;
    used.add(machine);
    this.#options = options;
    this.api = new ApiClient(apiSocketPath(this.directory));
  }

  get environment(): NodeJS.ProcessEnv {
    return { ...process.env, ...this.#variables };
  }

  get #variables(): Readonly<Record<string, string>> {
    return {
      VESPER_RUN_DIR: this.directory,
      VESPER_STATE_DIR: join(this.directory, 'state'),
      // Not what this machine may have in /etc.
      VESPER_CONFIG: this.#options.config ?? '/dev/null',
      ...this.#options.environment,
    };
  }

  get pid(): number {
    return this.#child?.pid ?? -1;
  }

  /** Resolves when the service listens. */
  async start(): Promise<void> {
    const { name, qmpPath } = this.#machine;
    const guests = this.#options.config === undefined ? ['--qemu', `${name}=${qmpPath}`] : [];
    const child = this.#spawn(['serve', ...guests, ...(this.#options.more ?? [])], {
      stdio: ['ignore', 'inherit', 'pipe'],
    });
    this.#child = child;
    const listening = Promise.withResolvers<void>();
    createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (line) => {
      this.log += `${line}\n`;
      if (line.includes('listening on')) listening.resolve();
    });
    child.once('exit', (code, signal) =>
      listening.reject(new Error(`vesper serve ended (${code ?? signal}): ${this.log}`)),
    );
    await listening.promise;
  }

  #spawn(args: readonly string[], options: SpawnOptions): ChildProcess {
    const { program = () => [process.execPath, join(repository, 'host/main.ts')] } = this.#options;
    const [command = '', ...before] = program(this.#variables);
    return spawn(command, [...before, ...args], { ...options, env: this.environment });
  }

  /** SIGKILL unless another signal is given; resolves when it is gone, with its exit status, null where a signal ended it. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<number | null> {
    const child = this.#child;
    if (child === undefined || !this.running) return null;
    const gone = once(child, 'exit') as Promise<[number | null]>;
    child.kill(signal);
    return (await gone)[0];
  }

  /** Runs the CLI against this service. */
  async vesper(
    ...args: readonly string[]
  ): Promise<{ readonly status: number; readonly stdout: string; readonly stderr: string }> {
    const child = this.#spawn(args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const [status] = (await once(child, 'close')) as [number];
    return { status, stdout, stderr };
  }

  /** Asks the service until one of its guests is as `look` wants it. */
  async guestUntil(look: (guest: GuestView) => boolean, timeLimitMs = patienceMs): Promise<GuestView> {
    const deadline = performance.now() + timeLimitMs;
    for (;;) {
      const guests = await this.api.guests().catch(() => []);
      const found = guests.find(look);
      if (found !== undefined) return found;
      if (performance.now() > deadline)
        throw new Error(`no guest came to it: ${JSON.stringify(guests)}\n${this.log}`);
      await new Promise((done) => setTimeout(done, 20));
    }
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The machine first: its service sees it die, and removes what it had plugged. */
  async close(): Promise<void> {
    if (!this.running && runs(this.#machine.pid)) {
      await this.start();
      await this.guestUntil(({ state }) => state === 'active').catch(() => undefined);
    }
    // A test that failed may have left it stopped.
    if (this.running) process.kill(this.pid, 'SIGCONT');
    await this.#machine.kill();
    if (this.running) await this.guestUntil(({ state }) => state === 'stopped').catch(() => undefined);
    // Without a service nobody removes the region of a machine that dies: it is the black box.
    else for (const region of regionsOf(this.#machine)) rmSync(region);
    await this.kill('SIGTERM');
    await this.#machine.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Machines of this process that a service was given. */
const used = new Set<Machine>();
/** Have `leftovers` look after a machine that neither a rig nor a service process was given. */
export const track = (machine: Machine): unknown => used.add(machine);
export const rigPrefix = `vesper-rig-${process.pid}-`;

const regionsOf = ({ name }: Machine): readonly string[] =>
  readdirSync('/dev/shm')
    .filter((file) => file.startsWith(`vesper-${name}`))
    .map((file) => join('/dev/shm', file));

/** Whether a process lives; one that is only not waited for yet does not. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** What this process left and must not: regions, QEMU processes, directories. Empty: nothing. Other processes may run tests too. */
export function leftovers(): readonly string[] {
  const regions = [...used].flatMap(regionsOf);
  const qemus = [...used].filter(({ pid }) => runs(pid)).map(({ name }) => `QEMU of ${name}`);
  const directories = [...used].map(({ directory }) => directory).filter(existsSync);
  const prefixes = [rigPrefix, `vesper-vsock-${process.pid}-`];
  const rigs = readdirSync(tmpdir()).filter((name) => prefixes.some((prefix) => name.startsWith(prefix)));
  return [...regions, ...qemus, ...directories, ...rigs];
}
