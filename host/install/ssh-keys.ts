// SPDX-License-Identifier: Apache-2.0

/** Whom we are to an SSH server: keys of files, and the agent's. Nobody is asked for anything. */

import { accessSync, constants, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import ssh2, { type AuthHandlerMiddleware } from 'ssh2';
import { VesperError } from '../error.ts';
import { type SshTarget, sshCommand } from './ssh-target.ts';

const defaultIdentities = ['id_ed25519', 'id_ecdsa', 'id_rsa'];

interface KeyFile {
  readonly path: string;
  readonly content: Buffer;
}

/** What is tried, one after the other; files named by hand before the agent, whose keys may be many. */
export class SshKeys {
  readonly #named: readonly KeyFile[];
  readonly #agent: string | undefined;
  readonly #usual: readonly KeyFile[];
  readonly #encrypted: readonly string[];
  #tried: string[] = [];

  /** Throws `USAGE` where a key that was named cannot be used. */
  constructor(identities: readonly string[], environment: NodeJS.ProcessEnv = process.env) {
    this.#named = identities.map(namedKey);
    this.#agent = environment['SSH_AUTH_SOCK'] || undefined;
    const usual = defaultIdentities.map((name) => join(homedir(), '.ssh', name)).flatMap(readableKey);
    // Of those that are no keys at all nothing is expected.
    this.#usual = usual.filter(({ content }) => problemOf(content) === undefined);
    this.#encrypted = usual
      .filter(({ content }) => problemOf(content) === 'encrypted')
      .map(({ path }) => path);
  }

  /** The key that was let in, once one was. */
  get accepted(): string {
    return this.#tried.at(-1) ?? '';
  }

  /** For `connect`. */
  handler({ user }: SshTarget): AuthHandlerMiddleware {
    const agent = this.#agent;
    const key = ({ path, content }: KeyFile) => ({
      name: path,
      method: { type: 'publickey' as const, username: user, key: content },
    });
    const methods = [
      ...this.#named.map(key),
      ...(agent === undefined
        ? []
        : [{ name: `the agent ${agent}`, method: { type: 'agent' as const, username: user, agent } }]),
      ...this.#usual.map(key),
    ];
    this.#tried = [];
    return () => {
      const method = methods.shift();
      if (method === undefined) return false;
      this.#tried.push(method.name);
      return method.method;
    };
  }

  /** Why nobody was let in, and what to type. */
  refusal(target: SshTarget): VesperError {
    const { user, host } = target;
    const tried =
      this.#tried.length > 0
        ? `it does not take ${this.#tried.join(', ')}`
        : 'there is no key to show: neither an agent (SSH_AUTH_SOCK) nor a key in ~/.ssh';
    const sealed = this.#encrypted.map(
      (path) => `\n${path} is encrypted; to have it tried: eval "$(ssh-agent)" && ssh-add ${path}`,
    );
    const command = sshCommand(target);
    return new VesperError(
      'REFUSED',
      `${user}@${host} does not let us in: ${tried}. Passwords are not asked for, and ~/.ssh/config is not read.${sealed.join('')}
To have a key accepted: ${command.replace(/^ssh /, 'ssh-copy-id ')}   (or name one that is: --identity FILE)`,
    );
  }
}

/** Nothing where there is none, or none for us. */
function readableKey(path: string): readonly KeyFile[] {
  try {
    accessSync(path, constants.R_OK);
  } catch {
    return [];
  }
  return [{ path, content: readFileSync(path) }];
}

function namedKey(path: string): KeyFile {
  let content: Buffer;
  try {
    content = readFileSync(path);
  } catch (thrown) {
    throw new VesperError('USAGE', `--identity ${path} cannot be read: ${(thrown as Error).message}`, {
      cause: thrown,
    });
  }
  const problem = problemOf(content);
  if (problem === undefined) return { path, content };
  throw new VesperError(
    'USAGE',
    problem === 'encrypted'
      ? `--identity ${path} is encrypted: eval "$(ssh-agent)" && ssh-add ${path}, then run this again without --identity`
      : `--identity ${path} is not a private key that can be used: ${problem}`,
  );
}

/** Undefined: none. */
function problemOf(content: Buffer): string | undefined {
  const key = ssh2.utils.parseKey(content);
  if (key instanceof Error) return /encrypted/i.test(key.message) ? 'encrypted' : key.message;
  return [key].flat()[0]?.isPrivateKey() === true ? undefined : 'it is a public one';
}
