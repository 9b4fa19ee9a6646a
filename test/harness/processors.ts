// SPDX-License-Identifier: Apache-2.0

/** Which processor does what in a bench, and how long each worked. */

import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Machine } from '../../host/demo/machine.ts';
import { runCommand } from '../../host/kernel/command.ts';

/** Asked before `keepApart`: what it leaves to this process is all that the process would be told of afterwards. */
const processors = availableParallelism();

/** The host's thread of each virtual CPU. */
export async function vcpuThreads(machine: Machine): Promise<readonly number[]> {
  const cpus = (await machine.qmp('query-cpus-fast')) as readonly { readonly 'thread-id': number }[];
  return cpus.map((cpu) => cpu['thread-id']);
}

/** Nanoseconds a thread has run. */
export const ranNs = (pid: number, thread: number): number =>
  Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);

/**
 * Gives the guest's CPUs the last processor, and everything else of QEMU and this process the others: then neither takes the
 * other's time, as on a machine with processors enough. Does nothing where there is only one. QEMU started after it is pinned as this
 * process is: to be called again for each machine.
 */
export async function keepApart(machine: Machine): Promise<void> {
  const last = processors - 1;
  if (last < 1) return;
  const vcpus = new Set(await vcpuThreads(machine));
  const pin = (thread: number, allowed: string) =>
    runCommand('taskset', ['-cp', allowed, `${thread}`], { package: 'util-linux' });
  for (const pid of [machine.pid, process.pid])
    for (const thread of readdirSync(`/proc/${pid}/task`).map(Number))
      await pin(thread, vcpus.has(thread) ? `${last}` : `0-${last - 1}`);
}
