// SPDX-License-Identifier: Apache-2.0

/** A guest by SSH. */

import ssh2, { type Client, type ClientChannel } from 'ssh2';
import { messageOf, VesperError } from '../error.ts';
import { HostKey, type HostKeyOptions } from './host-key.ts';
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
import { type SshTarget, sshCommand } from './ssh-target.ts';

export interface SshOptions extends HostKeyOptions {
  /** Private keys to try first. */
  readonly identities: readonly string[];
}

const connectTimeoutMs = 20_000;
const keepaliveMs = 10_000;
const keepaliveMisses = 3;

const signalStatus = 128;
const secondSignMs = 1_000;

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
    const opened = (thrown: Error | undefined, stream: ClientChannel): void => {
      if (thrown === undefined) {
        channel = stream;
        collect(stream, input, result);
        return;
      }
      // A connection that breaks is told as such.
      if (/no response from server/i.test(thrown.message)) return;
      const text = `${this.where} refuses to run commands: ${thrown.message}`;
      result.reject(new VesperError('REFUSED', text, { cause: thrown }));
    };
    try {
      // Whoever has another login shell than we expect gets the same.
      this.#client.exec(`exec /bin/sh -c ${quoted(script)}`, opened);
    } catch {
      clearTimeout(timer);
      return this.#lost.promise; // It is not connected any more.
    }
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
  channel.on('close', () => {
    if (status === undefined) {
      // Of a connection that breaks this is the first sign: the second tells more.
      const silent = new VesperError('UNREACHABLE', `a command ended without a word how; ${goOn}`);
      setTimeout(() => result.reject(silent), secondSignMs);
      return;
    }
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
