// SPDX-License-Identifier: Apache-2.0

/**
 * A process of its own that uses the libvirt bindings in one of several ways and has to end by itself:
 * `libvirt-client.ts WAY URI`. What it prints tells how far it came.
 */

import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { loadLibvirtAddon } from '../../host/provider/libvirt/addon.ts';

const { Connection } = loadLibvirtAddon();
const [way, uri] = isMainThread ? process.argv.slice(2) : workerData;

async function open() {
  const connection = await Connection.open(uri);
  await connection.subscribe('lifecycle', () => {});
  return connection;
}

const ways: Readonly<Record<string, () => Promise<unknown>>> = {
  /** The end of the program, with all still open. */
  end: open,
  exit: async () => {
    await open();
    process.exit(0);
  },
  /** In the middle of calls. */
  'exit-calling': async () => {
    const connection = await open();
    for (let n = 0; n < 20; n += 1) connection.listDomains().catch(() => {});
    process.exit(0);
  },
  /** While nobody answers: URI is that of a daemon that is stopped. */
  'exit-hanging': async () => {
    Connection.open(uri).catch(() => {});
    Connection.open(uri).catch(() => {});
    setTimeout(() => process.exit(0), 300);
  },
  /** Dropped connections are closed by the garbage collector; hangs where they are not. */
  dropped: async () => {
    const descriptors = () => readdirSync('/proc/self/fd').length;
    await (await Connection.open(uri)).close();
    const before = descriptors();
    for (let n = 0; n < 20; n += 1) await Connection.open(uri);
    while (descriptors() > before) {
      globalThis.gc?.();
      await new Promise((next) => setTimeout(next, 10));
    }
  },
  /** Ten threads, each ended in the middle of its calls, while this one goes on. */
  workers: async () => {
    const own = await open();
    for (let n = 0; n < 10; n += 1) {
      const worker = new Worker(new URL(import.meta.url), { workerData: ['in-worker', uri] });
      await once(worker, 'message');
      await worker.terminate();
      await own.listDomains();
    }
    await own.close();
  },
  /** All connections of the process belong to threads. */
  'only-workers': async () => {
    for (let n = 0; n < 5; n += 1) {
      const worker = new Worker(new URL(import.meta.url), { workerData: ['in-worker', uri] });
      await once(worker, 'message');
      await worker.terminate();
    }
  },
  /** Changes the domain that all of this process's test:///default connections have, as often as it is told. */
  'flood-in-worker': async () => {
    const [, , times, done] = workerData as [string, string, number, Int32Array];
    const connection = await Connection.open(uri);
    const domain = await connection.domainByName('test');
    for (let n = 0; n < times; n += 1) await (n % 2 === 0 ? domain.suspend() : domain.resume());
    await connection.close();
    Atomics.store(done, 0, 1);
    Atomics.notify(done, 0);
  },
  'in-worker': async () => {
    const connection = await open();
    connection.closed.catch(() => {});
    parentPort?.postMessage('open');
    for (;;) await Promise.all([connection.listDomains(), connection.capabilities()]);
  },
};

await ways[way]?.();
if (isMainThread) process.stdout.write('done');
