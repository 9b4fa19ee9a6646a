// SPDX-License-Identifier: Apache-2.0

/** Files of a guest by its QEMU guest agent, whatever its questions travel through. All that it answers is the guest's word. */

import { z } from 'zod';
import { VesperError } from '../error.ts';

/** Asks one question; throws what keeps it from being answered. */
export type AskAgent = (execute: string, args: Readonly<Record<string, unknown>>) => Promise<unknown>;

export const agentPort = 'org.qemu.guest_agent.0';
export const agentAnswer = z.union([
  z.object({ return: z.unknown() }),
  z.object({ error: z.object({ desc: z.string() }) }),
]);

const handleShape = z.number();
const readShape = z.object({ 'buf-b64': z.string().max(8192) });
const longestComplaint = 200;

/** What an answer says; throws REFUSED with the guest's words, PROTOCOL where it is none. */
export function agentResult(guest: string, execute: string, answer: unknown): unknown {
  const { success, data } = agentAnswer.safeParse(answer);
  if (!success)
    throw new VesperError('PROTOCOL', `${guest}: its agent answered ${execute} with what is no answer`);
  if (!('error' in data)) return data.return;
  const said = data.error.desc.slice(0, longestComplaint).replaceAll(/[^\x20-\x7e]/g, '?');
  throw new VesperError('REFUSED', `${guest}: its agent refused ${execute}: ${said}`);
}

export function parsedAnswer(name: string, line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (thrown) {
    throw new VesperError('PROTOCOL', `${name}: its agent sent what is not JSON`, { cause: thrown });
  }
}

/** At most 4 KiB. */
export async function readByAgent(
  guest: string,
  ask: AskAgent,
  path: string,
  mostBytes: number,
): Promise<Uint8Array> {
  const parse = <T>(execute: string, shape: z.ZodType<T>, answer: unknown): T => {
    const { success, data } = shape.safeParse(answer);
    if (success) return data;
    throw new VesperError('PROTOCOL', `${guest}: its agent answered ${execute} with something else`);
  };
  const handle = parse('guest-file-open', handleShape, await ask('guest-file-open', { path, mode: 'r' }));
  try {
    const answer = await ask('guest-file-read', { handle, count: mostBytes });
    const { 'buf-b64': text } = parse('guest-file-read', readShape, answer);
    return Buffer.from(text, 'base64').subarray(0, mostBytes);
  } finally {
    await ask('guest-file-close', { handle }).catch(() => undefined);
  }
}
