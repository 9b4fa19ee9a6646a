// SPDX-License-Identifier: Apache-2.0

/**
 * `node client.ts ADDRESS PORT`: asks a web server for its page again and again, one request at a time, and prints a line of JSON
 * when it begins to answer and when it no longer does. Ends with its standard input.
 */

import { connect } from 'node:net';
import { wallMsOf } from '../../host/guest/wall-clock.ts';

/** From the end of one request to the beginning of the next. */
export const pauseMs = 10;
const limitMs = 250;

export interface Change {
  readonly answers: boolean;
  /** When the answer was there, or when there was none. */
  readonly atMs: number;
}

const nowMs = (): number => wallMsOf(Number(process.hrtime.bigint()));

/** Whether a whole page with status 200 came. */
function asked(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    let answer = '';
    const socket = connect({ host, port });
    const timer = setTimeout(() => socket.destroy(), limitMs);
    socket.on('connect', () => socket.write(`GET / HTTP/1.0\r\nHost: ${host}\r\n\r\n`));
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString('latin1')));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(/^HTTP\/1\.[01] 200 /.test(answer) && answer.endsWith('\n'));
    });
  });
}

if (import.meta.main) {
  const [, , host = '', port = '80'] = process.argv;
  let ended = false;
  process.stdin.resume();
  process.stdin.once('end', () => (ended = true));
  for (let before: boolean | undefined; !ended; ) {
    const answers = await asked(host, Number(port));
    if (answers !== before) process.stdout.write(`${JSON.stringify({ answers, atMs: nowMs() })}\n`);
    before = answers;
    await new Promise((done) => setTimeout(done, pauseMs));
  }
}
