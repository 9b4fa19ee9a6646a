// SPDX-License-Identifier: Apache-2.0

/** The devices of a running QEMU, read from its object model. */

import { z } from 'zod';
import { VesperError } from '../../error.ts';
import { type QmpClient, refusalText } from './qmp.ts';

/** A device somebody gave to QEMU: on its command line, or by device_add. */
export interface Device {
  /** In the object model: `/machine/peripheral/ID`. */
  readonly path: string;
  /** Type name: `virtserialport`. */
  readonly type: string;
}

const listing = z.array(z.object({ name: z.string(), type: z.string() }));

/** Children of an object, and what links out of it: name and type, `child<…>` and `link<…>` taken off. */
async function entries(
  qmp: QmpClient,
  path: string,
  kind: 'child' | 'link',
): Promise<{ name: string; type: string }[]> {
  const all = await qmp.execute('qom-list', { path }, listing);
  const prefix = `${kind}<`;
  return all.flatMap(({ name, type }) =>
    type.startsWith(prefix) ? [{ name, type: type.slice(prefix.length, -1) }] : [],
  );
}

export const children = (qmp: QmpClient, path: string) => entries(qmp, path, 'child');

export async function devices(qmp: QmpClient): Promise<Device[]> {
  const containers = ['/machine/peripheral', '/machine/peripheral-anon'];
  const lists = await Promise.all(
    containers.map(async (container) =>
      (await children(qmp, container)).map(({ name, type }) => ({ path: `${container}/${name}`, type })),
    ),
  );
  return lists.flat();
}

export function property<T>(
  qmp: Pick<QmpClient, 'execute'>,
  path: string,
  name: string,
  shape: z.ZodType<T>,
): Promise<T> {
  return qmp.execute('qom-get', { path, property: name }, shape);
}

export const textProperty = (qmp: Pick<QmpClient, 'execute'>, path: string, name: string) =>
  property(qmp, path, name, z.string());

/** Names of the buses a device has, with their path. */
export async function busesOf(
  qmp: QmpClient,
  path: string,
  busType: string,
): Promise<{ name: string; path: string }[]> {
  const found = await children(qmp, path);
  return found.filter(({ type }) => type === busType).map(({ name }) => ({ name, path: `${path}/${name}` }));
}

/** How many devices sit on a bus. */
export async function occupants(qmp: QmpClient, busPath: string): Promise<number> {
  return (await entries(qmp, busPath, 'link')).filter(({ name }) => name.startsWith('child[')).length;
}

const chardevs = z.array(z.object({ label: z.string(), filename: z.string() }));

/** What QEMU says of where a character device leads: `unix:/path,server=on`; undefined where there is none of that id. */
export async function chardevAddress(qmp: QmpClient, id: string): Promise<string | undefined> {
  return (await qmp.execute('query-chardev', {}, chardevs)).find(({ label }) => label === id)?.filename;
}

const unplugRetryMs = 2_000;

/**
 * Unplug a device by its id and wait until it is gone. A PCI device goes only when the guest lets it go; what the
 * guest misses while it boots is asked again. Throws TIMEOUT.
 */
export async function unplug(qmp: QmpClient, id: string, limitMs: number, hint: string): Promise<void> {
  const gone = Promise.withResolvers<void>();
  // Listening starts first: for some devices the event comes before the reply.
  const stopListening = qmp.subscribe(({ name, data }) => {
    if (name === 'DEVICE_DELETED' && data['device'] === id) gone.resolve();
  });
  const ask = async (): Promise<void> => {
    try {
      await qmp.execute('device_del', { id });
    } catch (error) {
      const text = refusalText(error);
      if (/not found/i.test(text)) gone.resolve();
      else if (!/in the process of unplug|busy/i.test(text)) throw error;
    }
  };
  const failed = Promise.withResolvers<never>();
  const repeat = setInterval(() => ask().catch(failed.reject), unplugRetryMs);
  const timer = setTimeout(() => {
    const message = `${qmp.path}: device ${id} was not let go within ${limitMs} ms: ${hint}`;
    failed.reject(new VesperError('TIMEOUT', message, { data: { device: id, limitMs } }));
  }, limitMs);
  try {
    await Promise.race([ask().then(() => gone.promise), failed.promise]);
  } finally {
    clearInterval(repeat);
    clearTimeout(timer);
    stopListening();
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * A backend stays in use for a moment after its device has gone (QEMU frees by RCU): repeat the removal for so long.
 * Nothing there is fine.
 */
export async function removeBackend(
  qmp: QmpClient,
  command: string,
  id: string,
  limitMs = 2_000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    try {
      await qmp.execute(command, { id });
      return;
    } catch (error) {
      const text = refusalText(error);
      if (/not found/i.test(text)) return;
      if (!/in use|busy/i.test(text) || performance.now() > deadline) throw error;
      await pause(20);
    }
  }
}
