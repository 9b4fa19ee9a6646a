// SPDX-License-Identifier: Apache-2.0

/** Whether a host is the one it says it is, and what to type where that is not known. */

import type { ServerHostKeyAlgorithm } from 'ssh2';
import { messageOf, VesperError } from '../error.ts';
import { defaultKnownHosts, fingerprint, judge, keyType, knownKeys, remember } from './known-hosts.ts';
import { knownHostName, type SshTarget, sshCommand } from './ssh-target.ts';

export interface HostKeyOptions {
  readonly target: SshTarget;
  /** Instead of the user's and the machine's known_hosts. */
  readonly knownHosts?: string | undefined;
  /** Take a key that nobody knows yet, and remember it if `remember` is set. Never one that changed. */
  readonly acceptNew: boolean;
  readonly remember: boolean;
}

/** In the order of our liking. */
const hostKeyAlgorithms: readonly ServerHostKeyAlgorithm[] = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
];

export class HostKey {
  readonly #options: HostKeyOptions;
  readonly #files: readonly string[];
  /** Why it was not believed. */
  refusal: VesperError | undefined;
  detail = '';

  constructor(options: HostKeyOptions) {
    this.#options = options;
    this.#files = options.knownHosts === undefined ? defaultKnownHosts() : [options.knownHosts];
  }

  /** Kinds of keys that are known come first, or a host with several would look like another one. */
  algorithms(): ServerHostKeyAlgorithm[] {
    const known = new Set(this.#known().map(({ type }) => (type === 'ssh-rsa' ? 'rsa-sha2-512' : type)));
    return [
      ...hostKeyAlgorithms.filter((name) => known.has(name)),
      ...hostKeyAlgorithms.filter((name) => !known.has(name)),
    ];
  }

  verify(key: Buffer): boolean {
    const { acceptNew } = this.#options;
    const verdict = judge(this.#known(), key);
    const shown = `${keyType(key)} ${fingerprint(key)}`;
    this.detail = `host key ${shown}`;
    if (verdict.kind === 'known') return true;
    if (verdict.kind === 'unknown' && acceptNew) {
      this.detail += ', new';
      return !this.#options.remember || this.#remember(key);
    }
    this.refusal = new VesperError('REFUSED', this.#advice(verdict, shown), { data: { host_key: shown } });
    return false;
  }

  /** This runs in a callback of the connection: nothing may be thrown. */
  #remember(key: Buffer): boolean {
    const [file = ''] = this.#files;
    try {
      remember(file, knownHostName(this.#options.target), key);
      this.detail += `, now in ${file}`;
      return true;
    } catch (thrown) {
      const text = `the host key cannot be remembered (${messageOf(thrown)}): name a file that can be written: --known-hosts FILE`;
      this.refusal = new VesperError('HOST', text, { cause: thrown });
      return false;
    }
  }

  #advice(verdict: ReturnType<typeof judge>, shown: string): string {
    const { target, knownHosts } = this.#options;
    const name = knownHostName(target);
    const file = knownHosts ?? this.#files[0];
    switch (verdict.kind) {
      case 'known':
      case 'unknown':
        return `the host key of ${name} is not known: ${shown}. Compare it with what the guest's console says to
  for key in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $key; done
and if it is the same, run this again with --accept-new${knownHosts === undefined ? `, or connect once with: ${sshCommand(target)}` : ''}`;
      case 'changed':
        return `the host key of ${name} is not the one that is known (${verdict.place}), but ${shown}: somebody may be listening in. Where the guest was installed anew, forget the old one:
  ssh-keygen -f ${file} -R '${name}'
and run this again with --accept-new`;
      case 'revoked':
        return `the host key of ${name} is revoked (${verdict.place}): ${shown}. Give the guest a new one: ssh-keygen -A, after removing /etc/ssh/ssh_host_*`;
    }
  }

  #known() {
    return knownKeys(this.#files, knownHostName(this.#options.target));
  }
}
