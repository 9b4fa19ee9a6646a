// SPDX-License-Identifier: Apache-2.0

import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, VesperError } from '../error.ts';
import { runCommand } from './command.ts';

const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';

/**
 * An apt of its own: package lists of one Debian suite in a private folder. Neither the host's sources nor its lists
 * nor its installed packages are read or changed, and no root is needed.
 *
 * `VESPER_DEBIAN_MIRROR` and `VESPER_DEBIAN_SECURITY_MIRROR` replace deb.debian.org.
 */
export class PrivateApt {
  readonly #directory: string;
  readonly #suite: string;

  constructor(directory: string, suite: string) {
    this.#directory = directory;
    this.#suite = suite;
    for (const part of ['state/lists/partial', 'cache/archives/partial', 'etc']) {
      mkdirSync(join(directory, part), { recursive: true });
    }
    if (!existsSync(keyring)) {
      throw new VesperError(
        'HOST',
        `${keyring} is missing; install it with: apt-get install debian-archive-keyring.`,
      );
    }
    const { VESPER_DEBIAN_MIRROR, VESPER_DEBIAN_SECURITY_MIRROR } = process.env;
    const main = VESPER_DEBIAN_MIRROR || 'http://deb.debian.org/debian';
    const security = VESPER_DEBIAN_SECURITY_MIRROR || 'http://deb.debian.org/debian-security';
    const source = (mirror: string, name: string) =>
      `deb [arch=amd64 signed-by=${keyring}] ${mirror} ${name} main\n`;
    writeFileSync(
      join(directory, 'etc', 'sources.list'),
      source(main, suite) + source(main, `${suite}-updates`) + source(security, `${suite}-security`),
    );
  }

  /** Fetches the suite's package lists. */
  async update(): Promise<void> {
    try {
      await this.#run('apt-get', ['update', '--error-on=any', '-q']);
    } catch (cause) {
      throw new VesperError(
        'HOST',
        `Debian's archive cannot be read for ${this.#suite}: ${messageOf(cause)}\nCheck the network, or set VESPER_DEBIAN_MIRROR (and VESPER_DEBIAN_SECURITY_MIRROR) to a mirror that can be reached.`,
        { cause },
      );
    }
  }

  /** The packages `name` depends on directly, the first of each alternative. */
  async dependencies(name: string): Promise<string[]> {
    const { stdout } = await this.#run('apt-cache', ['depends', '--important', name]);
    const found: string[] = [];
    let inAlternative = false;
    for (const [, more, dependency] of stdout.matchAll(/^ ( |\|)(?:Pre)?Depends: (\S+)$/gm)) {
      if (!inAlternative && dependency !== undefined && !dependency.startsWith('<')) found.push(dependency);
      inAlternative = more === '|';
    }
    return found;
  }

  /** The newest version of a package. */
  async version(name: string): Promise<string> {
    const { stdout } = await this.#run('apt-cache', ['show', '--no-all-versions', name]);
    return /^Version: (.+)$/m.exec(stdout)?.[1] ?? 'unknown';
  }

  /** Whether there is such a package, and not only others that depend on one of this name. */
  async has(name: string): Promise<boolean> {
    const { stdout } = await this.#run('apt-cache', ['policy', name]);
    return /^ {2}Candidate: (?!\(none\))/m.test(stdout);
  }

  /** Downloads packages and unpacks them over each other into `target`. Signatures and hashes are apt's to check. */
  async unpack(names: readonly string[], target: string): Promise<void> {
    const archives = join(this.#directory, `debs-${names[0]}`);
    mkdirSync(archives);
    mkdirSync(target, { recursive: true });
    await this.#run('apt-get', ['download', '-q', ...names], archives);
    for (const file of readdirSync(archives).sort()) {
      await runCommand('dpkg', ['-x', join(archives, file), target], { package: 'dpkg' });
    }
  }

  #run(program: string, args: readonly string[], cwd?: string) {
    const settings = {
      'Dir::State': join(this.#directory, 'state'),
      'Dir::State::status': '/dev/null',
      'Dir::Cache': join(this.#directory, 'cache'),
      'Dir::Etc::sourcelist': join(this.#directory, 'etc', 'sources.list'),
      'Dir::Etc::sourceparts': '/dev/null',
      'Dir::Etc::preferences': '/dev/null',
      'Dir::Etc::preferencesparts': '/dev/null',
      'APT::Architecture': 'amd64',
      'APT::Sandbox::User': '',
      'Acquire::Languages': 'none',
      'Acquire::Retries': '3',
    };
    const options = Object.entries(settings).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
    return runCommand(program, [...options, ...args], { package: 'apt', ...(cwd ? { cwd } : {}) });
  }
}
