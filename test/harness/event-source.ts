// SPDX-License-Identifier: Apache-2.0

/** A reader of Server-Sent Events over a unix socket, as the HTML standard has a browser read them. */

import { type IncomingMessage, request } from 'node:http';

export interface ServerSentEvent {
  /** `message` where the stream names none. */
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly lastEventId: string;
}

export class EventSource implements AsyncDisposable {
  readonly #response: IncomingMessage;
  readonly #events: AsyncGenerator<ServerSentEvent>;
  /** To go on with. */
  lastEventId: string;

  private constructor(response: IncomingMessage, lastEventId: string) {
    this.#response = response;
    this.lastEventId = lastEventId;
    this.#events = this.#read();
  }

  static async open(
    socketPath: string,
    query: Readonly<Record<string, string>> = {},
    lastEventId = '',
  ): Promise<EventSource> {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const headers = {
        accept: 'text/event-stream',
        ...(lastEventId === '' ? {} : { 'last-event-id': lastEventId }),
      };
      request({ socketPath, path: `/v1/events?${new URLSearchParams(query)}`, headers }, resolve)
        .on('error', reject)
        .end();
    });
    const type = response.headers['content-type'];
    if (response.statusCode !== 200 || type !== 'text/event-stream') {
      const parts: Buffer[] = [];
      for await (const part of response) parts.push(part as Buffer);
      throw new Error(`${response.statusCode} ${type}: ${Buffer.concat(parts)}`);
    }
    return new EventSource(response, lastEventId);
  }

  async next(): Promise<ServerSentEvent> {
    const { value, done } = await this.#events.next();
    if (done === true) throw new Error('the stream ended');
    return value;
  }

  /** What comes until the stream ends. */
  async rest(): Promise<readonly ServerSentEvent[]> {
    const events: ServerSentEvent[] = [];
    for await (const event of this.#events) events.push(event);
    return events;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#response.destroy();
  }

  async *#read(): AsyncGenerator<ServerSentEvent> {
    this.#response.setEncoding('utf8');
    let half = '';
    let type = '';
    let data: string[] = [];
    for await (const chunk of this.#response as AsyncIterable<string>) {
      const lines = (half + chunk).split('\n');
      half = lines.pop() ?? '';
      for (const line of lines) {
        const [, name, value = ''] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
        if (name === 'id') this.lastEventId = value;
        else if (name === 'event') type = value;
        else if (name === 'data') data.push(value);
        else if (line === '') {
          if (data.length > 0)
            yield {
              type: type || 'message',
              data: JSON.parse(data.join('\n')),
              lastEventId: this.lastEventId,
            };
          type = '';
          data = [];
        }
      }
    }
  }
}
