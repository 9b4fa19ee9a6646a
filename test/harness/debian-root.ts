// SPDX-License-Identifier: Apache-2.0

/**
 * A fresh Debian 12 in a folder: what is installed, built and run in it touches nothing of this machine. A program sees of this
 * machine its processes, /dev/shm, and the folders that it is shown. Needs root.
 */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheDirectory, scratchDirectory } from '../../host/kernel/cache.ts';
import { type CommandResult, runCommand } from '../../host/kernel/command.ts';

export interface RunOptions {
  /** The exit statuses that are not errors; `[0]` unless given. */
  readonly accept?: readonly number[];
  readonly env?: Readonly<Record<string, string>>;
}

/** In a mount namespace of its own, which ends with the program; nothing is left mounted. */
const enter = `
set -e
# Where the root of this machine is no mount point, as in a chroot, this cannot be said, nor has it to be.
mount --make-rprivate / 2>/dev/null || true
root=$1 shown=$2
shift 2
for path in $shown; do
	mkdir -p "$root$path"
	mount --bind "$path" "$root$path"
done
exec chroot "$root" /usr/bin/env -i "$@"`;

/** Of man pages and translations nobody reads anything here. */
const leftOut = ['/usr/share/man/*', '/usr/share/locale/*', '/usr/share/i18n/*'];

export class DebianRoot implements AsyncDisposable {
  readonly directory: string;
  readonly #shown = ['/proc', '/dev/shm'];

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** One with these packages besides what is essential. */
  static async create(packages: readonly string[]): Promise<DebianRoot> {
    const archive = await fetchRoot(packages);
    const directory = mkdtempSync(join(tmpdir(), rootPrefix));
    try {
      await runCommand('tar', ['-C', directory, '--numeric-owner', '--xattrs', '-xf', archive]);
    } catch (thrown) {
      rmSync(directory, { recursive: true, force: true });
      throw thrown;
    }
    return new DebianRoot(directory);
  }

  /** Folders of this machine that programs started from now on find in it under the same name, and may write to. */
  show(...folders: readonly string[]): void {
    this.#shown.push(...folders);
  }

  /** The command that runs a program in it: as long as the process that starts it, with no environment but this. */
  command(program: readonly string[], env: Readonly<Record<string, string>> = {}): readonly string[] {
    const variables = {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      HOME: '/root',
      DEBIAN_FRONTEND: 'noninteractive',
      LC_ALL: 'C.UTF-8',
      ...env,
    };
    return [
      ...['setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount', '--propagation', 'unchanged'],
      ...['sh', '-c', enter, 'sh', this.directory, this.#shown.join(' ')],
      ...Object.entries(variables).map(([name, value]) => `${name}=${value}`),
      ...program,
    ];
  }

  /** Runs a program in it to its end. */
  run(program: readonly string[], { accept = [0], env = {} }: RunOptions = {}): Promise<CommandResult> {
    const [command = '', ...args] = this.command(program, env);
    return runCommand(command, args, { accept });
  }

  /** Where a file of it lies on this machine. */
  at(path: string): string {
    return join(this.directory, path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What is shown in it is this machine's own: never remove through a mount.
    const mounted = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((path) => path.startsWith(`${this.directory}/`));
    if (mounted.length > 0) throw new Error(`still mounted, to be unmounted by hand: ${mounted.join(', ')}`);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export const rootPrefix = `vesper-root-${process.pid}-`;

/** An archive with a Debian 12 that has these packages; made once, then taken from the cache. */
async function fetchRoot(packages: readonly string[]): Promise<string> {
  const key = createHash('sha256')
    .update(JSON.stringify([1, packages, leftOut]))
    .digest('hex')
    .slice(0, 16);
  const folder = join(cacheDirectory(), 'roots');
  const archive = join(folder, `bookworm-${key}.tar`);
  if (existsSync(archive)) return archive;
  mkdirSync(folder, { recursive: true });
  const scratch = scratchDirectory(folder, '.root-');
  try {
    const { VESPER_DEBIAN_MIRROR: mirror } = process.env;
    const made = join(scratch, 'root.tar');
    await runCommand(
      'mmdebstrap',
      [
        ...['--mode=root', '--variant=apt', `--include=${packages.join(',')}`],
        ...leftOut.map((path) => `--dpkgopt=path-exclude=${path}`),
        ...['bookworm', made, mirror || 'http://deb.debian.org/debian'],
      ],
      { package: 'mmdebstrap' },
    );
    renameSync(made, archive);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return archive;
}
