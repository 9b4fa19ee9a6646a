// SPDX-License-Identifier: Apache-2.0

/**
 * The guest agent of a machine, over the unix socket that is the host's end of its port. It serves one client at a time: each talk is
 * short, and ends with the connection.
 */

import { randomInt } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { VesperError } from '../../error.ts';
import { type AskAgent, agentPort, agentResult, parsedAnswer } from '../guest-agent.ts';
import type { QmpClient } from './qmp.ts';
import { chardevAddress, devices, textProperty } from './qom.ts';

const talkLimitMs = 5_000;
/** Of all that is answered in one talk. */
const mostBytes = 64 << 10;
/** A byte that no JSON has: the agent begins anew there. */
const flush = 0xff;

/** Throws UNREACHABLE where the machine has no agent's port, TIMEOUT where nobody answers there. */
export async function talkToAgent<T>(
  name: string,
  qmp: QmpClient,
  talk: (ask: AskAgent) => Promise<T>,
): Promise<T> {
  const socket = createConnection(await socketOf(name, qmp));
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => undefined);
  const timer = setTimeout(() => {
    const message = `${name}: no guest agent answers: install qemu-guest-agent in the guest, or have nobody else hold its socket`;
    failed.reject(new VesperError('TIMEOUT', message));
  }, talkLimitMs);
  try {
    return await Promise.race([converse(name, socket, failed.reject, talk), failed.promise]);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

async function converse<T>(
  name: string,
  socket: Socket,
  fail: (reason: VesperError) => void,
  talk: (ask: AskAgent) => Promise<T>,
): Promise<T> {
  socket.on('error', ({ message }) =>
    fail(new VesperError('UNREACHABLE', `${name}: the socket of its agent: ${message}`)),
  );
  socket.on('close', () => fail(new VesperError('UNREACHABLE', `${name}: its agent's socket was closed`)));
  let received = 0;
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
    if (received > mostBytes) fail(new VesperError('PROTOCOL', `${name}: its agent says too much`));
  });
  let answered: ((line: string) => void) | undefined;
  createInterface({ input: socket }).on('line', (line) => answered?.(line));
  const exchange = (execute: string, args: Readonly<Record<string, unknown>>): Promise<unknown> => {
    const { promise, resolve } = Promise.withResolvers<string>();
    answered = resolve;
    socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    return promise.then((line) => parsedAnswer(name, line));
  };
  await synchronise();
  return await talk(async (execute, args) => agentResult(name, execute, await exchange(execute, args)));

  /** What somebody else left half said ends here. */
  async function synchronise(): Promise<void> {
    const id = randomInt(2 ** 31);
    const { promise, resolve } = Promise.withResolvers<void>();
    answered = (line) => {
      if (new RegExp(`"return":\\s*${id}\\b`).test(line)) resolve();
    };
    socket.write(Buffer.of(flush));
    socket.write(`${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } })}\n`);
    await promise;
  }
}

async function socketOf(name: string, qmp: QmpClient): Promise<string> {
  const ports = (await devices(qmp)).filter(({ type }) => type === 'virtserialport');
  const names = await Promise.all(ports.map(({ path }) => textProperty(qmp, path, 'name')));
  const port = ports[names.indexOf(agentPort)];
  const label = port && (await textProperty(qmp, port.path, 'chardev'));
  const address = label === undefined ? undefined : await chardevAddress(qmp, label);
  const path = /^(?:disconnected:)?unix:(.+?),server(?:=on)?$/.exec(address ?? '')?.[1];
  if (path !== undefined) return path;
  throw new VesperError(
    'UNREACHABLE',
    `${name}: the machine has no port ${agentPort} that leads to a listening unix socket`,
  );
}
