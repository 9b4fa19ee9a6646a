// SPDX-License-Identifier: Apache-2.0

/** A thread that answers questions about the time in a region file as a guest does, by a clock of its own. */

import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { parentPort, Worker, workerData } from 'node:worker_threads';
import { ringBlock } from '../../host/wire/region.ts';

export interface ClockGuestData {
  readonly path: string;
  readonly blockOffset: number;
  /** What its clock is ahead of this machine's, in ns. */
  readonly aheadNs: bigint;
  readonly questions: number;
}

/** Resolves when it looks. It ends by itself after so many questions, or by terminate(). */
export async function startClockGuest(data: ClockGuestData): Promise<Worker> {
  const worker = new Worker(new URL(import.meta.url), { workerData: data });
  await new Promise((looks, failed) => {
    worker.once('message', looks);
    worker.once('error', failed);
  });
  return worker;
}

function answer({ path, blockOffset, aheadNs, questions }: ClockGuestData): void {
  const { clock_question, clock_ns, clock_answer } = ringBlock.offsets;
  const file = openSync(path, 'r+');
  const question = Buffer.alloc(8);
  const time = Buffer.alloc(8);
  let last = 0n;
  for (let answered = 0; answered < questions; ) {
    readSync(file, question, 0, 8, blockOffset + clock_question);
    const number = question.readBigUInt64LE();
    if (number === last || number === 0n) continue;
    last = number;
    time.writeBigUInt64LE(process.hrtime.bigint() + aheadNs);
    writeSync(file, time, 0, 8, blockOffset + clock_ns);
    writeSync(file, question, 0, 8, blockOffset + clock_answer);
    answered += 1;
  }
  closeSync(file);
}

if (parentPort !== null && typeof workerData === 'object' && workerData !== null && 'aheadNs' in workerData) {
  parentPort.postMessage('looks');
  answer(workerData as ClockGuestData);
}
