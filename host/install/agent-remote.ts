// SPDX-License-Identifier: Apache-2.0

/** A guest by the QEMU guest agent in it, over the unix socket that is the host's end of its port. */

import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { VesperError } from '../error.ts';
import { goOn, outputMaxBytes, outputText, type Remote, type RunOptions, type RunResult } from './remote.ts';

const answerTimeoutMs = 20_000;
const pollFirstMs = 50;
const pollMostMs = 1_000;
const signalStatus = 128;
/** Base64 of what a command may have printed. */
const lineMaxBytes = 8 << 20;
/** What a byte is that no JSON begins with: the agent puts one before the answer to a sync. */
const flush = 0xff;
const newline = 0x0a;

interface ExecStatus {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly signal?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly desc?: unknown };
}

export class AgentRemote implements Remote {
  readonly where: string;
  readonly details: readonly string[];
  readonly #socket: Socket;
  /** Of a line that has not ended yet. */
  #half: Buffer[] = [];
  #halfBytes = 0;
  /** Lines that nobody waited for yet. */
  readonly #answers: Answer[] = [];
  #arrived = Promise.withResolvers<void>();
  #ended: VesperError | undefined;

  private constructor(socket: Socket, path: string) {
    this.where = `the guest of the agent ${path}`;
    this.details = [`QEMU guest agent on ${path}`];
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', () => undefined);
    socket.once('close', () =>
      this.#end(new VesperError('UNREACHABLE', `the agent's socket ${path} was closed; ${goOn}`)),
    );
  }

  /** Throws `UNREACHABLE`, `TIMEOUT`, and `REFUSED` where the agent may not run commands. */
  static async connect(path: string): Promise<AgentRemote> {
    const socket = createConnection(path);
    try {
      await once(socket, 'connect', { signal: AbortSignal.timeout(answerTimeoutMs) });
    } catch (thrown) {
      socket.destroy();
      const { code, message } = thrown as NodeJS.ErrnoException;
      const advice =
        code === 'EACCES'
          ? 'run as root, or as the user of QEMU'
          : 'name the socket of the chardev that the port org.qemu.guest_agent.0 has';
      throw new VesperError('UNREACHABLE', `--agent ${path} cannot be opened (${message}): ${advice}`, {
        cause: thrown,
      });
    }
    const remote = new AgentRemote(socket, path);
    try {
      await remote.#synchronise(path);
      await remote.#mayExecute();
    } catch (thrown) {
      remote.close();
      throw thrown;
    }
    return remote;
  }

  async run(script: string, { input, timeoutMs }: RunOptions): Promise<RunResult> {
    const deadline = performance.now() + timeoutMs;
    const started = await this.#ask('guest-exec', {
      path: '/bin/sh',
      arg: ['-c', script],
      'capture-output': true,
      ...(input === undefined ? {} : { 'input-data': Buffer.from(input).toString('base64') }),
    });
    const { pid } = started as { readonly pid: number };
    for (let waitMs = pollFirstMs; ; waitMs = Math.min(2 * waitMs, pollMostMs)) {
      const status = (await this.#ask('guest-exec-status', { pid })) as ExecStatus;
      if (status.exited) {
        return {
          status: status.exitcode ?? signalStatus + (status.signal ?? 0),
          stdout: textOf(status['out-data']),
          stderr: textOf(status['err-data']),
        };
      }
      if (performance.now() > deadline) {
        throw new VesperError(
          'TIMEOUT',
          `${this.where} did not answer within ${timeoutMs / 1000} s; ${goOn}`,
        );
      }
      await delay(waitMs);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  /** What another client left half said, to the agent or by it, ends here. */
  async #synchronise(path: string): Promise<void> {
    const id = randomInt(2 ** 31);
    this.#socket.write(Buffer.of(flush));
    this.#send('guest-sync-delimited', { id });
    try {
      while ((await this.#next()).return !== id);
    } catch (thrown) {
      if (!(thrown instanceof VesperError) || thrown.code !== 'TIMEOUT') throw thrown;
      throw new VesperError(
        'TIMEOUT',
        `no guest agent answers on ${path}. In the guest: apt-get install qemu-guest-agent && systemctl start qemu-guest-agent. Where libvirt runs the machine the socket is libvirt's own: use --ssh there`,
        { cause: thrown },
      );
    }
  }

  async #mayExecute(): Promise<void> {
    const info = (await this.#ask('guest-info', {})) as {
      readonly supported_commands?: readonly { readonly name: string; readonly enabled: boolean }[];
    };
    const enabled = new Set(
      info.supported_commands?.filter(({ enabled }) => enabled).map(({ name }) => name) ?? [],
    );
    if (enabled.has('guest-exec') && enabled.has('guest-exec-status')) return;
    throw new VesperError(
      'REFUSED',
      'the guest agent may not run commands: take guest-exec and guest-exec-status out of the list of what it refuses (BLOCK_RPCS, BLACKLIST_RPC or FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga, block-rpcs or blacklist in /etc/qemu/qemu-ga.conf) and restart it: systemctl restart qemu-guest-agent. Or use --ssh',
    );
  }

  /** Questions are asked one after the other. */
  async #ask(execute: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    this.#send(execute, args);
    const answer = await this.#next();
    if (answer.error === undefined) return answer.return;
    throw new VesperError(
      'REFUSED',
      `${this.where} answered to ${execute}: ${outputText(String(answer.error.desc)).slice(0, 300)}`,
    );
  }

  #send(execute: string, args: Readonly<Record<string, unknown>>): void {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
  }

  async #next(): Promise<Answer> {
    const late = new AbortController();
    const deadline = performance.now() + answerTimeoutMs;
    try {
      for (;;) {
        const answer = this.#answers.shift();
        if (answer !== undefined) return answer;
        if (this.#ended !== undefined) throw this.#ended;
        const leftMs = Math.max(deadline - performance.now(), 0);
        const inTime = await Promise.race([
          this.#arrived.promise.then(() => true),
          delay(leftMs, false, { signal: late.signal }),
        ]);
        if (!inTime) {
          throw new VesperError(
            'TIMEOUT',
            `${this.where} did not answer within ${answerTimeoutMs / 1000} s; ${goOn}`,
          );
        }
      }
    } finally {
      late.abort();
    }
  }

  #take(chunk: Buffer): void {
    this.#half.push(chunk);
    this.#halfBytes += chunk.length;
    if (this.#halfBytes > lineMaxBytes) {
      this.#end(new VesperError('PROTOCOL', `${this.where} sent too long a line`));
      this.#socket.destroy();
      return;
    }
    if (!chunk.includes(newline)) return;
    let rest: Buffer = Buffer.concat(this.#half);
    for (let at = rest.indexOf(newline); at >= 0; at = rest.indexOf(newline)) {
      const line = rest.subarray(rest.subarray(0, at).lastIndexOf(flush) + 1, at).toString('utf8');
      rest = rest.subarray(at + 1);
      if (line.trim() !== '') this.#line(line);
    }
    this.#half = [rest];
    this.#halfBytes = rest.length;
  }

  #line(line: string): void {
    try {
      this.#answers.push(JSON.parse(line) as Answer);
      this.#wake();
    } catch (thrown) {
      this.#end(
        new VesperError('PROTOCOL', `${this.where} sent what is not JSON: it is not the agent`, {
          cause: thrown,
        }),
      );
    }
  }

  #end(reason: VesperError): void {
    this.#ended ??= reason;
    this.#wake();
  }

  #wake(): void {
    this.#arrived.resolve();
    this.#arrived = Promise.withResolvers();
  }
}

const textOf = (base64: string | undefined): string =>
  outputText(
    Buffer.from(base64 ?? '', 'base64')
      .subarray(0, outputMaxBytes)
      .toString('utf8'),
  );
