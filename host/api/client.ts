// SPDX-License-Identifier: Apache-2.0

/** The CLI's side of the API. */

import { type IncomingMessage, request } from 'node:http';
import { type ErrorCode, errorCodes, VesperError } from '../error.ts';
import type { GuestView, IncidentDetailView, IncidentView, ProbeResult, ProblemView } from './view.ts';

export class ApiClient {
  readonly #path: string;

  constructor(socketPath: string) {
    this.#path = socketPath;
  }

  guests(): Promise<readonly GuestView[]> {
    return this.#json('GET', '/v1/guests');
  }

  /** Why guests may be missing. */
  problems(): Promise<readonly ProblemView[]> {
    return this.#json('GET', '/v1/problems');
  }

  guest(name: string): Promise<GuestView> {
    return this.#json('GET', `/v1/guests/${encodeURIComponent(name)}`);
  }

  /** The newest first. */
  incidents(): Promise<readonly IncidentView[]> {
    return this.#json('GET', '/v1/incidents');
  }

  incident(id: string): Promise<IncidentDetailView> {
    return this.#json('GET', `/v1/incidents/${encodeURIComponent(id)}`);
  }

  async attach(
    guest: string,
    body: {
      readonly probes: readonly string[];
      readonly parameters: readonly string[];
      readonly self_test: boolean;
      readonly force: boolean;
    },
  ): Promise<readonly ProbeResult[]> {
    const path = `/v1/guests/${encodeURIComponent(guest)}/attach`;
    return (await this.#json<{ results: readonly ProbeResult[] }>('POST', path, body)).results;
  }

  /** No names: all. */
  async detach(guest: string, probes: readonly string[]): Promise<readonly ProbeResult[]> {
    const path = `/v1/guests/${encodeURIComponent(guest)}/detach`;
    return (await this.#json<{ results: readonly ProbeResult[] }>('POST', path, { probes })).results;
  }

  /** The page for Prometheus. */
  async metrics(): Promise<string> {
    const response = await this.#send('GET', '/metrics');
    if (response.statusCode !== 200) throw await failureOf(response);
    return textOf(response);
  }

  /** Lines of the event stream, parsed; ends when the service ends it or `signal` aborts. */
  async *events(
    query: Readonly<Record<string, string>>,
    signal?: AbortSignal,
  ): AsyncGenerator<Record<string, unknown>> {
    const response = await this.#send('GET', `/v1/events?${new URLSearchParams(query)}`, undefined, signal);
    if (response.statusCode !== 200) throw await failureOf(response);
    // An abort reaches the response, too, when nobody reads it any more.
    response.on('error', () => {}).setEncoding('utf8');
    let half = '';
    try {
      for await (const chunk of response as AsyncIterable<string>) {
        const lines = (half + chunk).split('\n');
        half = lines.pop() ?? '';
        for (const line of lines) yield JSON.parse(line) as Record<string, unknown>;
      }
    } catch (thrown) {
      if (signal?.aborted !== true) {
        throw new VesperError('UNREACHABLE', 'the vesper service went away; the stream has ended', {
          cause: thrown,
        });
      }
    } finally {
      response.destroy();
    }
  }

  async #json<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await this.#send(method, path, body);
    if (response.statusCode !== 200) throw await failureOf(response);
    return JSON.parse(await textOf(response)) as T;
  }

  #send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<IncomingMessage> {
    const content = body === undefined ? undefined : JSON.stringify(body);
    const headers =
      content === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) };
    return new Promise((resolve, reject) => {
      const sent = request(
        { socketPath: this.#path, method, path, headers, ...(signal === undefined ? {} : { signal }) },
        resolve,
      );
      sent.on('error', (thrown: NodeJS.ErrnoException) => reject(this.#unreachable(thrown)));
      sent.end(content);
    });
  }

  #unreachable(thrown: NodeJS.ErrnoException): VesperError {
    const what =
      thrown.code === 'EACCES'
        ? `you may not open ${this.#path}: run as root or as a member of its group`
        : thrown.code === 'ENOENT' || thrown.code === 'ECONNREFUSED'
          ? `no vesper service answers on ${this.#path}: start it with "vesper serve", or name its directory with --run-dir`
          : `the vesper service on ${this.#path} went away before it answered (${thrown.message})`;
    return new VesperError('UNREACHABLE', what, { cause: thrown });
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of response) parts.push(part as Buffer);
  return Buffer.concat(parts).toString('utf8');
}

async function failureOf(response: IncomingMessage): Promise<VesperError> {
  const text = await textOf(response);
  try {
    const { code, message, data } = JSON.parse(text) as {
      code: string;
      message: string;
      data?: Record<string, unknown>;
    };
    return new VesperError(
      code in errorCodes ? (code as ErrorCode) : 'HOST',
      message,
      data === undefined ? {} : { data },
    );
  } catch {
    return new VesperError(
      'HOST',
      `the vesper service answered ${response.statusCode}: ${text.slice(0, 200)}`,
    );
  }
}
