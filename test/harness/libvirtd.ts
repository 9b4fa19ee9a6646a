// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { scratchDirectory } from '../../host/kernel/cache.ts';

const patienceMs = 20_000;

/**
 * As PID 1 of the namespace: one daemon for each line it reads, and the end of them all when there are no more. Children
 * of dead parents become its own, and libvirtd waits 40 s for each QEMU it asked for its capabilities unless somebody
 * reaps it: bash does, dash does not.
 */
const supervisor = 'while read -r _; do "$@" & done';

/** In a mount namespace of its own; whatever /dev/shm lies in, only there. */
const privateShm =
  'for place in /dev/shm /dev /; do mount --make-rprivate $place 2>/dev/null && break; done; mount -t tmpfs -o mode=1777 tmpfs /dev/shm';

/**
 * A real libvirtd in session mode, which needs no configuration of this machine, with a folder of its own. As root it runs
 * as another user, because root's is always the system's; it and all it starts live in a process namespace then, which
 * ends with this process, however that ends. Without root their end is `close()`.
 */
export class Libvirtd implements AsyncDisposable {
  readonly directory: string;
  readonly uri: string;
  /** Whom files have to belong to that the daemon and its QEMUs read and write. */
  readonly uid: number;
  readonly #supervisor: ChildProcess;
  readonly #logs: string;

  private constructor(directory: string, ownShm: boolean) {
    const root = process.getuid?.() === 0;
    this.directory = directory;
    this.uid = root ? 65534 : (process.getuid?.() ?? 0);
    const socket = join(directory, 'r/libvirt/libvirt-sock');
    this.uri = `qemu+unix:///session?socket=${socket}`;
    this.#logs = join(directory, 'log');
    // Short: libvirt has the sockets of channels below it, whose names may have 107 bytes.
    for (const folder of ['', 'h', 'c', 'c/libvirt', 'r']) this.folder(folder);
    // Daemons of the same machine tell each other apart by it when a domain migrates.
    this.file('c/libvirt/libvirtd.conf', `host_uuid = "${randomUUID()}"\n`);
    this.file('c/libvirt/qemu.conf', 'stdio_handler = "file"\n');

    const user = root ? ['setpriv', `--reuid=${this.uid}`, `--regid=${this.uid}`, '--clear-groups'] : [];
    const environment = [
      'PATH=/usr/sbin:/usr/bin:/sbin:/bin',
      `HOME=${directory}/h`,
      `XDG_CONFIG_HOME=${directory}/c`,
      `XDG_RUNTIME_DIR=${directory}/r`,
    ];
    const daemon = [...user, 'env', '-i', ...environment, 'sh', '-c'];
    // What is mounted elsewhere stays as it is: in a plain chroot / is no mount point whose propagation could be changed.
    const proc = ['--propagation', 'unchanged', '--mount-proc'];
    const namespace = root ? ['unshare', '--pid', '--fork', '--kill-child=KILL', ...proc] : [];
    const first = ownShm ? `${privateShm} && ${supervisor}` : supervisor;
    const command = ['--pdeathsig', 'KILL', ...namespace, 'bash', '-c', first, 'bash', ...daemon];
    this.#supervisor = spawn('setpriv', [...command, `exec libvirtd >>${this.#logs} 2>&1`], {
      stdio: ['pipe', 'inherit', 'inherit'],
    });
  }

  /** `ownShm`: as on another host, its /dev/shm is not this one's; needs root. */
  static async start({ ownShm = false } = {}): Promise<Libvirtd> {
    const daemon = new Libvirtd(scratchDirectory(tmpdir(), 'vesper-lv-'), ownShm);
    try {
      await daemon.launch();
      return daemon;
    } catch (thrown) {
      await daemon.close();
      throw thrown;
    }
  }

  /** Starts the daemon, also again after `kill`, and waits until it answers. */
  async launch(): Promise<void> {
    const socket = join(this.directory, 'r/libvirt/libvirt-sock');
    rmSync(socket, { force: true });
    this.#supervisor.stdin?.write('start\n');
    await until(
      () => existsSync(socket),
      'the socket of libvirtd',
      () => this.log(),
    );
  }

  /** The daemon's process id in this process's namespace; undefined: it does not run. */
  get pid(): number | undefined {
    return this.processes().find((pid) => nameOf(pid) === 'libvirtd');
  }

  /** SIGKILL: resolves when it is gone; its domains go on. */
  async signal(signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): Promise<void> {
    const { pid } = this;
    if (pid === undefined) throw new Error(`no libvirtd runs: ${this.log()}`);
    process.kill(pid, signal);
    if (signal === 'SIGKILL') await until(() => this.pid === undefined, 'the end of libvirtd');
  }

  /** What to put before a command that is to run on the daemon's host, and to end with it. */
  get there(): readonly string[] {
    return ['nsenter', `--target=${this.pid}`, '--root', '--wd', '--mount', '--pid', '--'];
  }

  /** The QEMU of a domain. */
  qemuPid(name: string): number {
    const found = this.processes().find((pid) =>
      commandOf(pid).some((word) => word.startsWith(`guest=${name},`)),
    );
    if (found === undefined) throw new Error(`no QEMU runs ${name}`);
    return found;
  }

  /** All that this daemon started and that is still there, itself included. */
  processes(): readonly number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .map(Number)
      .filter((pid) => pid !== process.pid && isOf(pid, `${this.directory}/`));
  }

  /** Makes a folder that the daemon may write to; its path. */
  folder(name: string): string {
    const path = join(this.directory, name);
    mkdirSync(path, { recursive: true, mode: 0o700 });
    chownSync(path, this.uid, this.uid);
    return path;
  }

  /** Makes a file that the daemon may read and write; its path. */
  file(name: string, content: string | Uint8Array): string {
    const path = join(this.directory, name);
    writeFileSync(path, content, { mode: 0o600 });
    chownSync(path, this.uid, this.uid);
    return path;
  }

  log(): string {
    return existsSync(this.#logs) ? readFileSync(this.#logs, 'utf8').slice(-4000) : '';
  }

  /** Ends the daemon and all it started, also stopped ones, and removes its folder. */
  async close(): Promise<void> {
    this.#supervisor.kill('SIGKILL');
    await until(() => {
      const left = this.processes();
      for (const pid of left) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch (thrown) {
          if ((thrown as NodeJS.ErrnoException).code !== 'ESRCH') throw thrown;
        }
      }
      return left.length === 0;
    }, 'the end of what libvirtd started');
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function until(holds: () => boolean, what: string, more: () => string = () => ''): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!holds()) {
    if (performance.now() > deadline)
      throw new Error(`${what} did not come within ${patienceMs} ms\n${more()}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

/** Whether a living process has `folder` in its command or its environment. */
function isOf(pid: number, folder: string): boolean {
  try {
    if (/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) return false;
    return ['cmdline', 'environ'].some((file) =>
      readFileSync(`/proc/${pid}/${file}`, 'latin1').includes(folder),
    );
  } catch {
    return false; // It ended, or is another user's.
  }
}

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return '';
  }
}

function commandOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}
