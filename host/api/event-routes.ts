// SPDX-License-Identifier: Apache-2.0

/** GET /v1/events: lines of JSON, or Server-Sent Events for who accepts `text/event-stream`; both with the same filters. */

import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { Service } from '../service/service.ts';
import { EventStream } from './event-stream.ts';
import { EventMatcher } from './filter.ts';
import { ndjson, serverSentEvents } from './stream-format.ts';
import { positionAfter } from './stream-position.ts';

const eventQuery = z.object({
  guest: z.string().optional(),
  probe: z.string().optional(),
  event: z.string().optional(),
  min_severity: z.string().optional(),
  where: z.string().optional(),
  /** Milliseconds since 1970; kept events from then on come first. */
  since: z.coerce.number().optional(),
  /** Id of the last event a reader got: those after it come first. The header Last-Event-ID says the same, and later. */
  after: z.string().optional(),
  follow: z.enum(['0', '1']).default('1'),
});

/** A reader that gets nothing for long is told how far it is, so that it does not have to come back for what it did not want. */
const positionEveryMs = 15_000;

export function eventRoutes(app: FastifyInstance, service: Service): void {
  app.get('/v1/events', async (request, reply) => {
    const { since, after, follow, min_severity, ...query } = eventQuery.parse(request.query);
    if (query.guest !== undefined) service.guest(query.guest);
    const { recent } = service;
    // A reader that has no id yet may send an empty one.
    const last = z.string().optional().parse(request.headers['last-event-id']) || after;
    const position = last === undefined ? undefined : positionAfter(recent, last);
    const matcher = new EventMatcher({ ...query, minSeverity: min_severity });
    const format = /\btext\/event-stream\b/.test(request.headers.accept ?? '') ? serverSentEvents : ndjson;
    reply.hijack();
    const out = reply.raw;
    out.writeHead(200, { 'content-type': format.contentType, 'cache-control': 'no-store' });
    out.flushHeaders();
    const stream = new EventStream(out, matcher, recent, format);
    if (last !== undefined) {
      if (position === undefined) stream.tellRestarted();
      await stream.replay({ after: position ?? 0 });
    } else if (since !== undefined) await stream.replay({ sinceMs: since });
    if (follow === '0') {
      stream.tellPosition();
      out.end();
    } else if (!out.destroyed) {
      const leave = service.bus.add(stream);
      stream.tellPosition();
      const timer = setInterval(() => stream.tellPosition(), positionEveryMs);
      out.on('close', () => {
        leave();
        clearInterval(timer);
      });
    }
  });
}
