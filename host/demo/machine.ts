// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { keeperFile, scratchDirectory } from '../kernel/cache.ts';
import { fetchKernel } from '../kernel/fetch.ts';
import { type Accelerator, chooseAccelerator } from './accelerator.ts';
import { guestImage } from './image.ts';
import { type MachineOptions, shapeOf } from './machine-options.ts';
import { Monitor } from './monitor.ts';
import { machineFiles, qemuArguments } from './qemu-arguments.ts';
import { SerialLine } from './serial.ts';
import { GuestShell, type RunOptions, type RunResult } from './shell.ts';

export type { MachineOptions };

export interface MachineExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const scratchPrefix = 'vesper-guest-';
const readyLine = /^VESPER-GUEST READY .*$/m;
/** Not printed by a guest that reboots after a panic. */
const deadLine = /^.*---\[ end Kernel panic.*$/m;
/** The stale translation that `TcgThreads` tells of, before anything of ours ran. */
const staleTranslation = /Oops: int3|BUG: kernel NULL pointer|Kernel panic/;

/**
 * A throw-away guest in QEMU: a stock Debian kernel, an initramfs and nothing else. It dies with this process, however
 * that ends; its folder is removed by `close`, or, after a kill -9, by the next machine that boots.
 */
export class Machine implements AsyncDisposable {
  readonly name: string;
  readonly uuid: string;
  /** The machine's private folder. */
  readonly directory: string;
  readonly accelerator: Accelerator;
  readonly options: MachineOptions;
  /** How QEMU ended; never rejects. */
  readonly exited: Promise<MachineExit>;

  readonly #child: ChildProcess;
  readonly #console: SerialLine;
  readonly #shellLine: SerialLine;
  readonly #shell: GuestShell;
  readonly #monitor: Monitor;

  private constructor(parts: MachineParts) {
    this.name = parts.name;
    this.uuid = parts.uuid;
    this.directory = parts.directory;
    this.accelerator = parts.accelerator;
    this.options = parts.options;
    this.#child = parts.child;
    this.#console = parts.console;
    this.#shellLine = parts.shellLine;
    this.#shell = new GuestShell(parts.shellLine);
    this.#monitor = parts.monitor;
    this.exited = watchExit(parts, (reason) => {
      this.#console.close(reason);
      this.#shellLine.close(reason);
      this.#monitor.close(reason);
    });
  }

  /**
   * Boots a guest and returns when it is up. Throws `HOST` or `TIMEOUT` with the end of its console. With
   * `tcgThreads: 'multi'` a kernel that trips over TCG before it runs init is given two more chances.
   */
  static async boot(options: MachineOptions = {}): Promise<Machine> {
    for (let chances = options.tcgThreads === 'multi' ? 3 : 1; ; chances--) {
      const machine = await Machine.#launch(options);
      try {
        await machine.waitReady();
        return machine;
      } catch (error) {
        const log = machine.console();
        await machine.close();
        if (chances <= 1 || log.includes('Run /init') || !staleTranslation.test(log)) throw error;
      }
    }
  }

  static async #launch(options: MachineOptions): Promise<Machine> {
    const accelerator =
      options.accelerator ?? (await chooseAccelerator(() => bootsUnderKvm(options.progress ?? (() => {}))));
    const kernel = await fetchKernel(options.kernel ?? '6.1', options);
    const initramfs = await guestImage(kernel, options);
    const uuid = randomUUID();
    const name = `${scratchPrefix}${uuid.slice(0, 8)}`;
    const directory = scratchDirectory(tmpdir(), scratchPrefix);
    const file = (key: keyof typeof machineFiles) => join(directory, machineFiles[key]);
    const console = await SerialLine.listen(file('console'));
    const shellLine = await SerialLine.listen(file('shell'));
    const monitor = await Monitor.listen(file('monitor'));
    const identity = { name, uuid, directory, accelerator, initramfs, kernelImage: kernel.image };
    const qemu = ['qemu-system-x86_64', ...qemuArguments(shapeOf(options), identity)];
    // The kernel ends QEMU when this process ends, even by SIGKILL.
    const command = options.keep ? ['setsid', ...qemu] : ['setpriv', '--pdeathsig', 'KILL', ...qemu];
    const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
    return new Machine({ name, uuid, directory, accelerator, options, child, console, shellLine, monitor });
  }

  /** QEMU's process id. */
  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** The QMP socket for VESPER's provider; the harness uses another monitor. */
  get qmpPath(): string {
    return join(this.directory, machineFiles.qmp);
  }

  /** The kernel log so far, as it went over the first serial line; also in the file `consoleLogPath`. */
  console(): string {
    return this.#console.text;
  }

  get consoleLogPath(): string {
    return join(this.directory, machineFiles.consoleLog);
  }

  /** The console's end now, for `waitConsole` and `waitReady`. */
  consolePosition(): number {
    return this.#console.position;
  }

  /** Resolves with the first match on the console behind `position`. */
  waitConsole(pattern: RegExp, timeoutMs: number, position = 0): Promise<RegExpExecArray> {
    return this.#console.waitFor(pattern, timeoutMs, position);
  }

  /** Resolves when the guest has booted behind `position` and, unless it sleeps, answers in its shell. */
  async waitReady(position = 0): Promise<void> {
    const timeoutMs = this.options.bootTimeoutMs ?? 60_000;
    const either = new RegExp(`${readyLine.source}|${deadLine.source}`, 'm');
    const [line] = await this.#console.waitFor(either, timeoutMs, position);
    if (deadLine.test(line)) {
      const tail = this.#console.since(position).split('\n').slice(-40).join('\n');
      throw new VesperError('HOST', `The kernel of ${this.name} panicked while it booted:\n${tail}`);
    }
    if (this.options.init !== 'asleep') await this.#shell.greet(timeoutMs);
  }

  /** Runs a shell command in the guest; commands run one after the other. */
  run(command: string, options: RunOptions = {}): Promise<RunResult> {
    return this.#shell.run(command, options);
  }

  /** `run` that throws when the command fails; returns its output. */
  async check(command: string, options: RunOptions = {}): Promise<string> {
    const { status, output } = await this.run(command, options);
    if (status !== 0)
      throw new VesperError('HOST', `In the guest "${command}" failed with status ${status}: ${output}`);
    return output;
  }

  /** Starts a command in the guest's background; its output goes to /tmp/<pid>.out there. Returns its pid. */
  async start(command: string): Promise<number> {
    const quoted = command.replaceAll("'", `'\\''`);
    const output = await this.check(`sh -c 'exec >/tmp/$$.out 2>&1 </dev/null; exec ${quoted}' & echo $!`);
    return Number(output);
  }

  /** Sends a command that ends the shell's answers: `reboot -f`, `echo c >/proc/sysrq-trigger`, … */
  post(command: string): Promise<void> {
    return this.#shell.post(command);
  }

  /** Stops every process of the guest, PID 1 in uninterruptible sleep, the others by SIGSTOP. The shell is gone then. */
  async freeze(timeoutMs = 30_000): Promise<void> {
    const position = this.consolePosition();
    await this.post('actor freeze');
    await this.waitConsole(/VESPER-GUEST FROZEN/, timeoutMs, position);
  }

  /** Magic SysRq over the serial console: the kernel acts alone, no process takes part. 'c' panics, 'f' calls the OOM killer. */
  async sysrq(key: string): Promise<void> {
    await this.#monitor.execute('chardev-send-break', { id: 'console' });
    this.#console.send(key);
  }

  /** A QMP command on the harness's monitor. */
  qmp(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    return this.#monitor.execute(command, args);
  }

  /** Pulls the reset line, and waits until the guest is up again. */
  async reset(): Promise<void> {
    const position = this.consolePosition();
    await this.qmp('system_reset');
    await this.waitReady(position);
  }

  /** Ends QEMU with SIGKILL and waits for it. The folder stays until `close`. */
  async kill(): Promise<MachineExit> {
    this.#child.kill('SIGKILL');
    return this.exited;
  }

  /** Ends the guest and removes all that it left. May be called twice. */
  async close(): Promise<void> {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** A socket with a shell for people, of which the harness takes no notice. */
  get terminalPath(): string {
    return join(this.directory, machineFiles.terminal);
  }

  /** Lets go of a guest booted with `keep`: it runs on after this process, until its `pid` is killed. */
  detach(): void {
    if (!this.options.keep) throw new VesperError('USAGE', `${this.name} was not booted to be kept.`);
    writeFileSync(join(this.directory, keeperFile), `${this.pid}\n`);
    this.#child.stderr?.destroy();
    this.#child.unref();
    const reason = new VesperError('SESSION_ENDED', `${this.name} was let go.`);
    for (const line of [this.#console, this.#shellLine, this.#monitor]) line.close(reason);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

interface MachineParts {
  readonly name: string;
  readonly uuid: string;
  readonly directory: string;
  readonly accelerator: Accelerator;
  readonly options: MachineOptions;
  readonly child: ChildProcess;
  readonly console: SerialLine;
  readonly shellLine: SerialLine;
  readonly monitor: Monitor;
}

function watchExit({ child, name }: MachineParts, ended: (reason: Error) => void): Promise<MachineExit> {
  let complaint = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-4000);
  });
  return new Promise((resolve) => {
    child.on('error', (cause) => {
      const text = `QEMU cannot be started (${cause.message}); install it with: apt-get install qemu-system-x86 util-linux.`;
      ended(new VesperError('HOST', text, { cause }));
      resolve({ code: 127, signal: null });
    });
    child.on('close', (code, signal) => {
      const how = signal ? `was ended by ${signal}` : `ended with status ${code}`;
      ended(
        new VesperError(
          'SESSION_ENDED',
          `QEMU of ${name} ${how}${complaint ? `: ${complaint.trim()}` : '.'}`,
        ),
      );
      resolve({ code, signal });
    });
  });
}

async function bootsUnderKvm(progress: (line: string) => void): Promise<boolean> {
  progress('trying whether a guest really boots under KVM');
  try {
    await using machine = await Machine.boot({ accelerator: 'kvm', frontend: false, bootTimeoutMs: 15_000 });
    return (await machine.run('true', { timeoutMs: 5_000 })).status === 0;
  } catch (error) {
    progress(
      `KVM does not work here (${error instanceof Error ? error.message.split('\n')[0] : error}); using TCG`,
    );
    return false;
  }
}
