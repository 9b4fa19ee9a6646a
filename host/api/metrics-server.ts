// SPDX-License-Identifier: Apache-2.0

/** GET /metrics over TCP, for a Prometheus that cannot read a unix socket. It offers nothing else: whoever reaches it may read it. */

import { createServer, type Server } from 'node:http';
import { isIPv6 } from 'node:net';
import { messageOf, VesperError } from '../error.ts';
import { pageType } from '../sink/prometheus/page.ts';

export interface MetricsAddress {
  readonly host: string;
  readonly port: number;
}

export const defaultMetricsAddress = '127.0.0.1:9787';

/** `HOST:PORT` or `[IPV6]:PORT`, or true for the default; throws USAGE. */
export function metricsAddress(option: string | true): MetricsAddress {
  const text = option === true ? defaultMetricsAddress : option;
  const [, bracketed, plain, digits] = /^(?:\[([0-9a-f:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/i.exec(text) ?? [];
  const host = bracketed ?? plain ?? '';
  const port = Number(digits ?? Number.NaN);
  if (host === '' || !(port <= 65_535) || (bracketed !== undefined && !isIPv6(bracketed)))
    throw new VesperError(
      'USAGE',
      `cannot understand the address "${text}": write HOST:PORT, for example ${defaultMetricsAddress}`,
    );
  return { host, port };
}

export class MetricsServer {
  readonly #server: Server;
  readonly #address: MetricsAddress;

  constructor(address: MetricsAddress, page: () => Promise<string>) {
    this.#address = address;
    this.#server = createServer((request, response) => {
      const path = request.url?.split('?')[0];
      if (path !== '/metrics' || (request.method !== 'GET' && request.method !== 'HEAD')) {
        response.writeHead(404, { 'content-type': 'text/plain' }).end('there is only GET /metrics\n');
        return;
      }
      page().then(
        (text) => response.writeHead(200, { 'content-type': pageType }).end(text),
        (thrown) => response.writeHead(500, { 'content-type': 'text/plain' }).end(`${messageOf(thrown)}\n`),
      );
    });
    this.#server.maxConnections = 64;
  }

  /** Where it listens, once it does: `http://127.0.0.1:9787/metrics`. */
  get url(): string {
    const bound = this.#server.address();
    const { host } = this.#address;
    const port = typeof bound === 'object' && bound !== null ? bound.port : this.#address.port;
    return `http://${isIPv6(host) ? `[${host}]` : host}:${port}/metrics`;
  }

  /** Throws HOST where the address cannot be had. */
  async start(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', reject);
    this.#server.listen({ ...this.#address }, resolve);
    try {
      await promise;
    } catch (thrown) {
      const { host, port } = this.#address;
      throw new VesperError(
        'HOST',
        `cannot offer metrics on ${host}:${port}: ${messageOf(thrown)}: name another address with --metrics`,
        { cause: thrown },
      );
    }
  }

  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}
