// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { Machine } from '../../host/demo/machine.ts';
import { scratchDirectory } from '../../host/kernel/cache.ts';
import { fetchKernel, type Kernel } from '../../host/kernel/fetch.ts';
import { userlandPackages } from './userland-packages.ts';

const startLimitMs = 120_000;
/** Where a module lies that goes into the guest: a disk of that size. */
const diskBytes = 4 << 20;

/**
 * A Debian guest in two halves, since compiling under emulation takes minutes: its kernel is a real one in QEMU, its userspace, with
 * sshd, DKMS, compiler and guest agent, a namespace of this machine. modprobe, rmmod and dmesg of the one act on the other.
 */
export class Userland implements AsyncDisposable {
  readonly machine: Machine;
  readonly kernel: Kernel;
  readonly directory: string;
  /** Where sshd takes calls on 127.0.0.1. */
  port = 0;
  /** What modprobe and rmmod were asked for. */
  readonly kernelCalls: string[] = [];
  readonly #child: ChildProcess;
  readonly #servers: Server[] = [];
  readonly #connections = new Set<Socket>();
  #output = '';

  private constructor(machine: Machine, kernel: Kernel, directory: string, packages: string) {
    this.machine = machine;
    this.kernel = kernel;
    this.directory = directory;
    const kbuild = `linux-kbuild-${/^\d+\.\d+/.exec(kernel.release)?.[0]}`;
    const command = [
      ...['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--ipc', '--fork', '--kill-child=KILL'],
      ...[resolve(import.meta.dirname, 'userland.sh'), directory, packages],
      ...[kernel.release, kernel.modules, kernel.headers, join(kernel.directory, 'usr/lib', kbuild)],
    ];
    this.#child = spawn('setpriv', command, { stdio: ['pipe', 'pipe', 'pipe'] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.#output += chunk.toString()));
  }

  /** Needs root. */
  static async start(): Promise<Userland> {
    const directory = scratchDirectory(tmpdir(), 'vesper-userland-');
    const disk = join(directory, 'module');
    writeFileSync(disk, new Uint8Array(diskBytes));
    const kernel = await fetchKernel('6.1');
    const machine = await Machine.boot({
      frontend: false,
      modules: ['virtio_pci', 'virtio_console', 'virtio_blk'],
      qemuArguments: ['-drive', `file=${disk},format=raw,if=virtio`],
    });
    let userland: Userland | undefined;
    try {
      for (const folder of ['shared', 'memory', 'sys/module', 'sys/class/dmi/id'])
        mkdirSync(join(directory, folder), { recursive: true });
      chmodSync(join(directory, 'shared'), 0o755);
      chmodSync(directory, 0o755);
      writeFileSync(
        join(directory, 'boot_id'),
        `${await machine.check('cat /proc/sys/kernel/random/boot_id')}\n`,
      );
      writeFileSync(join(directory, 'sys/class/dmi/id/product_uuid'), `${machine.uuid.toUpperCase()}\n`);
      userland = new Userland(machine, kernel, directory, await userlandPackages());
      await userland.#serve();
      await userland.#ready();
      return userland;
    } catch (thrown) {
      await userland?.close();
      await machine.close();
      rmSync(directory, { recursive: true, force: true });
      throw thrown;
    }
  }

  /** A file or folder that the two of us share; in there it is `/run/outside/NAME`. */
  shared(name: string): string {
    return join(this.directory, 'shared', name);
  }

  get agentSocket(): string {
    return this.shared('agent.sock');
  }

  /** Who may log in: lines as of authorized_keys(5). */
  authorize(lines: string): void {
    writeFileSync(this.shared('authorized_keys'), lines, { mode: 0o644 });
  }

  /** Of the host key: `TYPE BASE64`. */
  hostKey(type: 'ed25519' | 'rsa'): string {
    return readFileSync(this.shared(`host_${type}.pub`), 'utf8')
      .split(' ')
      .slice(0, 2)
      .join(' ')
      .trim();
  }

  /** A path in there, as one of this machine. */
  path(inside: string): string {
    return join(`/proc/${this.#init()}/root`, inside);
  }

  /** Runs a command in there, as root. */
  async run(script: string): Promise<{ readonly status: number; readonly output: string }> {
    const child = spawn('nsenter', ['-t', `${this.#init()}`, '-m', '-p', '-r', '-w', 'bash', '-c', script], {
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const [status] = (await once(child, 'close')) as [number | null];
    return { status: status ?? 128, output: output.trim() };
  }

  /** Cuts every SSH connection, as a network that fails. */
  cut(): void {
    for (const socket of this.#connections) socket.destroy();
  }

  async close(): Promise<void> {
    this.cut();
    for (const server of this.#servers) server.close();
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const gone = once(this.#child, 'close');
      this.#child.kill('SIGKILL');
      await gone;
    }
    await this.machine.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** PID 1 of the namespace: the child of unshare. */
  #init(): number {
    const { pid } = this.#child;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]);
  }

  async #serve(): Promise<void> {
    const ssh = createServer((socket) => {
      const inside = createConnection(this.shared('ssh.sock'));
      for (const [one, other] of [
        [socket, inside],
        [inside, socket],
      ] as const) {
        this.#connections.add(one);
        one
          .on('error', () => undefined)
          .once('close', () => {
            this.#connections.delete(one);
            other.destroy();
          });
        one.pipe(other);
      }
    });
    ssh.listen(0, '127.0.0.1');
    const calls = createServer({ allowHalfOpen: true }, (socket) => {
      socket
        .on('error', () => undefined)
        .once('data', (line: Buffer) => {
          this.#kernelCall(line.toString().trim()).then(
            ({ status, output }) => socket.end(`${status}\n${output}\n`),
            (thrown: unknown) => socket.end(`1\n${thrown}\n`),
          );
        });
    });
    calls.listen(this.shared('kernel.sock'));
    this.#servers.push(ssh, calls);
    await Promise.all(this.#servers.map((server) => server.listening || once(server, 'listening')));
    this.port = (ssh.address() as AddressInfo).port;
  }

  async #ready(): Promise<void> {
    const deadline = performance.now() + startLimitMs;
    while (!this.#output.includes('ready\n')) {
      if (performance.now() > deadline || this.#child.exitCode !== null)
        throw new Error(`the userspace did not start: ${this.#output}`);
      await new Promise((done) => setTimeout(done, 20));
    }
  }

  async #kernelCall(line: string): Promise<{ readonly status: number; readonly output: string }> {
    const [name = '', argument = ''] = line.split(' ');
    if (name === 'dmesg') return this.machine.run('dmesg');
    this.kernelCalls.push(line);
    const result =
      name === 'rmmod' ? await this.machine.run(`rmmod ${argument}`) : await this.#insert(argument);
    await this.mirror();
    return result;
  }

  /** The module goes into the guest as a disk does. */
  async #insert(path: string) {
    if (path === '') return { status: 1, output: 'modprobe: FATAL: Module vesper not found' };
    const disk = join(this.directory, 'module');
    copyFileSync(this.path(path), disk);
    const { size } = statSync(disk);
    writeFileSync(disk, new Uint8Array(diskBytes - size), { flag: 'a' });
    const file = `/tmp/${basename(path)}`;
    return this.machine.run(
      `echo 3 >/proc/sys/vm/drop_caches; head -c ${size} /dev/vda >${file} && insmod ${file}`,
    );
  }

  /** Makes what sysfs says of the module in there what it says in the virtual machine. */
  async mirror(): Promise<void> {
    const target = join(this.directory, 'sys/module/vesper');
    rmSync(target, { recursive: true, force: true });
    const { status, output } = await this.machine.run(
      'cd /sys/module/vesper && echo $(cat version) $(cat srcversion) $(ls holders)',
    );
    if (status !== 0) return;
    const [version = '', sources = '', ...holders] = output.split(' ');
    mkdirSync(join(target, 'holders'), { recursive: true });
    writeFileSync(join(target, 'version'), `${version}\n`);
    writeFileSync(join(target, 'srcversion'), `${sources}\n`);
    for (const holder of holders) writeFileSync(join(target, 'holders', holder), '');
  }
}

/** Whether there is what it takes, which is root and namespaces: tests are passed over where not. */
export const canBecomeGuest =
  process.getuid?.() === 0 &&
  spawnSync('unshare', ['--mount', '--pid', '--ipc', '--fork', 'true']).status === 0;
