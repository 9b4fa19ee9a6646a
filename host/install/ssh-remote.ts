// SPDX-License-Identifier: Apache-2.0

/** A guest by SSH. */

import ssh2, { type Client, type ClientChannel, type ServerHostKeyAlgorithm } from 'ssh2';
import { messageOf, VesperError } from '../error.ts';
import { defaultKnownHosts, fingerprint, judge, keyType, knownKeys, remember } from './known-hosts.ts';
import {
  goOn,
  outputMaxBytes,
  outputText,
  quoted,
  type Remote,
  type RunOptions,
  type RunResult,
} from './remote.ts';
import { SshKeys } from './ssh-keys.ts';
import { knownHostName, type SshTarget, sshCommand } from './ssh-target.ts';

export interface SshOptions {
  readonly target: SshTarget;
  /** Private keys to try first. */
  readonly identities: readonly string[];
  /** Instead of the user's and the machine's known_hosts. */
  readonly knownHosts?: string | undefined;
  /** Take a key that nobody knows yet, and remember it if `remember` is set. Never one that changed. */
  readonly acceptNew: boolean;
  readonly remember: boolean;
}

const connectTimeoutMs = 20_000;
const keepaliveMs = 10_000;
const keepaliveMisses = 3;

/** In the order of our liking. */
const hostKeyAlgorithms: readonly ServerHostKeyAlgorithm[] = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
];
const signalStatus = 128;

export class SshRemote implements Remote {
  readonly where: string;
  readonly details: readonly string[];
  readonly #client: Client;
  readonly #lost = Promise.withResolvers<never>();
  #why = 'it was closed';

  private constructor(client: Client, target: SshTarget, details: readonly string[]) {
    this.where = `${target.user}@${target.host}`;
    this.details = details;
    this.#client = client;
    client.on('error', (thrown) => {
      this.#why = messageOf(thrown);
    });
    client.once('close', () =>
      this.#lost.reject(
        new VesperError('UNREACHABLE', `the connection to ${this.where} was lost (${this.#why}); ${goOn}`),
      ),
    );
    // Nobody may be waiting for anything when it is closed.
    this.#lost.promise.catch(() => undefined);
  }

  /** Throws `UNREACHABLE`, `TIMEOUT`, or `REFUSED` where host key or authentication are. */
  static async connect(options: SshOptions): Promise<SshRemote> {
    const { target } = options;
    const keys = new SshKeys(options.identities);
    const hostKey = new HostKey(options);
    const client = new ssh2.Client();
    const connected = Promise.withResolvers<void>();
    client.once('ready', connected.resolve);
    const failed = (thrown: Error & { readonly level?: string; readonly code?: unknown }): void =>
      connected.reject(hostKey.refusal ?? connectError(thrown, target, keys));
    client.on('error', failed);
    client.once('close', () => failed(new Error('the server hung up')));
    try {
      client.connect({
        host: target.host,
        port: target.port,
        username: target.user,
        readyTimeout: connectTimeoutMs,
        keepaliveInterval: keepaliveMs,
        keepaliveCountMax: keepaliveMisses,
        algorithms: { serverHostKey: hostKey.algorithms() },
        hostVerifier: (key: Buffer) => hostKey.verify(key),
        authHandler: keys.handler(target),
      });
      await connected.promise;
    } catch (thrown) {
      client.destroy();
      throw thrown;
    }
    client.removeAllListeners('error').removeAllListeners('close');
    return new SshRemote(client, target, [hostKey.detail, `authenticated by ${keys.accepted}`]);
  }

  async run(script: string, { input, timeoutMs }: RunOptions): Promise<RunResult> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () =>
        late.reject(
          new VesperError('TIMEOUT', `${this.where} did not answer within ${timeoutMs / 1000} s; ${goOn}`),
        ),
      timeoutMs,
    );
    let channel: ClientChannel | undefined;
    const result = Promise.withResolvers<RunResult>();
    // Whoever has another login shell than we expect gets the same.
    this.#client.exec(`exec /bin/sh -c ${quoted(script)}`, (thrown, opened) => {
      if (thrown) {
        const text = `${this.where} refuses to run commands: ${thrown.message}`;
        result.reject(new VesperError('REFUSED', text, { cause: thrown }));
        return;
      }
      channel = opened;
      collect(opened, input, result);
    });
    try {
      return await Promise.race([result.promise, late.promise, this.#lost.promise]);
    } finally {
      clearTimeout(timer);
      channel?.close();
    }
  }

  close(): void {
    this.#client.destroy();
  }
}

function collect(
  channel: ClientChannel,
  input: Uint8Array | undefined,
  result: PromiseWithResolvers<RunResult>,
): void {
  const [stdout, stderr] = [channel, channel.stderr].map((stream) => {
    const kept = { text: '' };
    stream.setEncoding('utf8').on('data', (text: string) => {
      if (kept.text.length < outputMaxBytes) kept.text += text;
    });
    return kept;
  });
  let status: number | undefined;
  channel.on('exit', (code: number | null) => {
    status = code ?? signalStatus;
  });
  // Without a status the connection broke: that is told otherwise.
  channel.on('close', () => {
    if (status !== undefined)
      result.resolve({
        status,
        stdout: outputText(stdout?.text ?? ''),
        stderr: outputText(stderr?.text ?? ''),
      });
  });
  // A command that ends before it has read all it was given says so by its status.
  channel.on('error', () => undefined);
  channel.end(input);
}

/** Whether the host is the one it says it is. */
class HostKey {
  readonly #options: SshOptions;
  readonly #files: readonly string[];
  /** Why it was not believed. */
  refusal: VesperError | undefined;
  detail = '';

  constructor(options: SshOptions) {
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
    const { target, acceptNew } = this.#options;
    const verdict = judge(this.#known(), key);
    const shown = `${keyType(key)} ${fingerprint(key)}`;
    this.detail = `host key ${shown}`;
    if (verdict.kind === 'known') return true;
    if (verdict.kind === 'unknown' && acceptNew) {
      const file = this.#files[0];
      if (this.#options.remember && file !== undefined) remember(file, knownHostName(target), key);
      this.detail += this.#options.remember ? `, new, now in ${file}` : ', new';
      return true;
    }
    this.refusal = new VesperError('REFUSED', this.#advice(verdict, shown), { data: { host_key: shown } });
    return false;
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

function connectError(
  thrown: Error & { readonly level?: string; readonly code?: unknown },
  target: SshTarget,
  keys: SshKeys,
): VesperError {
  const { host, port } = target;
  const cause = { cause: thrown };
  if (thrown.level === 'client-authentication' || /too many authentication/i.test(thrown.message))
    return keys.refusal(target);
  if (thrown.level === 'client-timeout') {
    return new VesperError(
      'TIMEOUT',
      `${host} port ${port} did not answer as an SSH server within ${connectTimeoutMs / 1000} s: is the guest up, and sshd in it? Try: ${sshCommand(target)}`,
      cause,
    );
  }
  switch (thrown.code) {
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new VesperError(
        'UNREACHABLE',
        `there is no host ${host}: names of ~/.ssh/config are not read, write the address`,
        cause,
      );
    case 'ECONNREFUSED':
      return new VesperError(
        'UNREACHABLE',
        `nothing listens on ${host} port ${port}: in the guest, systemctl enable --now ssh; or name the port: --ssh USER@HOST:PORT. Without SSH, --agent goes through the QEMU guest agent`,
        cause,
      );
    default:
      return new VesperError(
        'UNREACHABLE',
        `no SSH connection to ${host} port ${port}: ${thrown.message}. Try: ${sshCommand(target)}`,
        cause,
      );
  }
}
