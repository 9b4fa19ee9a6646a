// SPDX-License-Identifier: Apache-2.0

/** The API over a unix socket: HTTP with JSON, events as a stream. Who may open the socket may use it. */

import { chmodSync, chownSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import fastify, { type FastifyInstance } from 'fastify';
import { z } from 'zod';
import { loadSocketAddon } from '../channel/native.ts';
import { messageOf, VesperError } from '../error.ts';
import { apiSocketPath } from '../service/config.ts';
import type { Service } from '../service/service.ts';
import { pageType } from '../sink/prometheus/page.ts';
import { eventRoutes } from './event-routes.ts';
import { guestView } from './guest-view.ts';
import { type MetricsAddress, MetricsServer } from './metrics-server.ts';
import { groupId, peerOf } from './peer.ts';
import type { ProblemView } from './view.ts';

const attachBody = z.object({
  probes: z.array(z.string()).min(1),
  /** `name=value` or `probe.name=value`. */
  parameters: z.array(z.string()).default([]),
  self_test: z.boolean().default(true),
  force: z.boolean().default(false),
});
const detachBody = z.object({ probes: z.array(z.string()) });
const httpStatus = {
  USAGE: 400,
  NOT_FOUND: 404,
  REFUSED: 409,
  VERSION: 409,
  BAD_IMAGE: 409,
  UNREACHABLE: 503,
  TIMEOUT: 504,
} as const;

export class ApiServer {
  readonly #service: Service;
  readonly #app: FastifyInstance;
  readonly #path: string;
  readonly #metrics: MetricsServer | undefined;
  #listening = false;

  /** `metrics`: where the page for Prometheus is to be had over TCP, too. */
  constructor(service: Service, metrics?: MetricsAddress) {
    this.#service = service;
    this.#path = apiSocketPath(service.config.runDirectory);
    this.#app = fastify({ logger: false, forceCloseConnections: true });
    this.#routes();
    this.#metrics =
      metrics === undefined ? undefined : new MetricsServer(metrics, () => service.metrics.page());
  }

  get path(): string {
    return this.#path;
  }

  /** Throws HOST where another service answers on the socket. */
  async start(): Promise<void> {
    if (await answers(this.#path)) {
      throw new VesperError(
        'HOST',
        `another vesper service answers on ${this.#path}: stop it, or give this one another --run-dir`,
      );
    }
    rmSync(this.#path, { force: true });
    loadSocketAddon();
    // Until it has its mode, nobody but the service's own user may connect.
    process.umask(process.umask() | 0o022);
    try {
      await this.#app.listen({ path: this.#path });
    } catch (thrown) {
      throw new VesperError('HOST', `cannot listen on ${this.#path}: ${messageOf(thrown)}`, {
        cause: thrown,
      });
    }
    this.#listening = true;
    const { group, mode = 0o660 } = this.#service.config.api ?? {};
    if (group !== undefined) chownSync(this.#path, -1, await groupId(group));
    chmodSync(this.#path, mode);
    await this.#metrics?.start();
    if (this.#metrics !== undefined) this.#service.log.info(`metrics on ${this.#metrics.url}`);
  }

  async stop(): Promise<void> {
    await this.#metrics?.stop();
    await this.#app.close();
    // Else it is the socket of the other service, for which this one was refused.
    if (this.#listening) rmSync(this.#path, { force: true });
  }

  #routes(): void {
    const service = this.#service;
    this.#app.setErrorHandler((thrown, _request, reply) => {
      const error = asVesperError(thrown);
      const status = (httpStatus as Partial<Record<string, number>>)[error.code] ?? 500;
      if (status === 500) service.log.error({ err: thrown }, messageOf(thrown));
      void reply.code(status).send({ code: error.code, message: error.message, data: error.data });
    });
    this.#app.get('/v1/guests', () => service.guests().map(guestView));
    this.#app.get('/v1/problems', () =>
      [...service.problems()].map(([where, problem]): ProblemView => ({ where, problem })),
    );
    this.#app.get<{ Params: { guest: string } }>('/v1/guests/:guest', ({ params }) =>
      guestView(service.guest(params.guest)),
    );
    this.#app.post<{ Params: { guest: string } }>(
      '/v1/guests/:guest/attach',
      async ({ params, body, raw }) => {
        const by = await peerOf(raw.socket);
        const { probes, parameters, self_test: selfTest, force } = attachBody.parse(body);
        const results = await service.guest(params.guest).attach(probes, parameters, { by, selfTest, force });
        return { results };
      },
    );
    this.#app.post<{ Params: { guest: string } }>(
      '/v1/guests/:guest/detach',
      async ({ params, body, raw }) => {
        const by = await peerOf(raw.socket);
        const guest = service.guest(params.guest);
        const given = detachBody.parse(body).probes;
        const names = given.length > 0 ? given : guestView(guest).probes.map(({ name }) => name);
        const results = [];
        for (const name of names) results.push(await guest.detach(name, by));
        return { results };
      },
    );
    this.#app.post<{ Params: { guest: string } }>('/v1/guests/:guest/release', async ({ params }) => {
      await service.guest(params.guest).close({ release: true });
      return {};
    });
    this.#app.get('/v1/incidents', () => service.incidents?.list() ?? []);
    this.#app.get<{ Params: { id: string } }>('/v1/incidents/:id', ({ params }) => {
      const kept = service.incidents;
      if (kept !== undefined) return kept.get(params.id);
      throw new VesperError('NOT_FOUND', 'the service tells no cluster of anything: it keeps no incidents');
    });
    this.#app.get('/metrics', async (_request, reply) =>
      reply.type(pageType).send(await service.metrics.page()),
    );
    eventRoutes(this.#app, service);
  }
}

function asVesperError(thrown: unknown): VesperError {
  if (thrown instanceof VesperError) return thrown;
  if (thrown instanceof z.ZodError) {
    return new VesperError(
      'USAGE',
      thrown.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '),
      { cause: thrown },
    );
  }
  return new VesperError('HOST', messageOf(thrown), { cause: thrown });
}

/** Whether somebody listens on a unix socket. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    const settle = (listening: boolean) => () => {
      socket.destroy();
      resolve(listening);
    };
    socket.once('connect', settle(true)).once('error', settle(false));
  });
}
