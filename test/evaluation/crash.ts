// SPDX-License-Identifier: Apache-2.0

/** One death of the web server, from the wait for its time to the server's answering again. */

import { setTimeout as sleep } from 'node:timers/promises';
import { wallMsOf } from '../../host/guest/wall-clock.ts';
import { type Crash, type Experiment, intervalMs, type Mode } from './results.ts';
import type { AgentCall, Death, Stage } from './stage.ts';

/** What tells of the death: of a process that is killed for want of memory the kernel's choice of it, which comes first. */
const told: Readonly<Record<Experiment, string>> = { SIGSEGV: 'signal.died', OOM: 'oom.kill' };

/** Of the clock of Pacemaker's log, and what ours may differ. */
const tickMs = 5;
const causeWithinMs = 10_000;

/** How it is brought about. Nothing here waits for what it does but for the command to be over. */
const commands: Readonly<Record<Experiment, (process: string) => string>> = {
  SIGSEGV: (process) => `actor --name killer kill $(pidof ${process}) 11`,
  // Another process takes all memory there is; the server is what the administrator would have killed first.
  OOM: (process) => `echo 1000 >/proc/$(pidof ${process})/oom_score_adj; tail /dev/zero; true`,
};

/** `phase` is where between two polls the death is to be, from 0 to 1. What takes long to kill comes that much later. */
export async function crash(stage: Stage, mode: Mode, experiment: Experiment, phase: number): Promise<Crash> {
  const { web } = stage;
  await stage.setClock();
  const poll = await pollBefore(stage, phase * intervalMs[mode]);
  const seen = stage.deaths.length;
  const command = web.guest.check(commands[experiment](web.process));
  const isOurs = ({ event, comm }: Death) => event === told[experiment] && comm === web.process;
  const death = await stage.until(() => stage.deaths.slice(seen).find(isOurs), 'the death');
  const { atMs, errorMs } = death;
  if (errorMs === null) throw new Error("the guest's clock is not aligned with the host's");
  await command;
  const isFailure = ({ task, result }: Stage['results'][number]) =>
    task === 'monitor' && !['initiated', 'requested', 'ok', 'Cancelled'].includes(result);
  const detectedMs =
    mode === 'VESPER'
      ? death.heardMs
      : (
          await stage.until(
            () => stage.results.find((one) => isFailure(one) && one.atMs > atMs - tickMs),
            'a poll that fails',
          )
        ).atMs;
  const stop = await stage.until(
    () => stage.calls.find(({ task, atMs: calledMs }) => task === 'stop' && calledMs > atMs),
    'the beginning of the recovery',
  );
  const [initiated, requested] = await stage.until(() => {
    const found = ['initiated', 'requested'].map((wanted) =>
      stage.results.find(
        ({ task, result, atMs: doneMs }) => task === 'stop' && result === wanted && doneMs > atMs - tickMs,
      ),
    );
    return found.every((one) => one !== undefined) ? found : undefined;
  }, 'what the cluster logs of it');
  if (initiated === undefined || requested === undefined) throw new Error('there is no log of it');
  // Before its death it may have been too slow for the client, as its guest had no memory.
  const answer = await stage.until(
    () => stage.changes.find(({ answers, atMs: answeredMs }) => answers && answeredMs > stop.atMs),
    'an answer of the web server',
  );
  return {
    mode,
    experiment,
    sincePollMs: atMs - (stage.calls.findLast(isPollBefore(atMs)) ?? poll).atMs,
    errorMs,
    detectedMs: detectedMs - atMs,
    recoveringMs: initiated.atMs - atMs,
    askedMs: requested.atMs - atMs,
    agentMs: stop.atMs - atMs,
    answeringMs: answer.atMs - atMs,
  };
}

/** Waits until so long after a poll; its call. */
async function pollBefore(stage: Stage, afterMs: number): Promise<AgentCall> {
  let poll = await stage.settled();
  while (now() > poll.atMs + afterMs) {
    const last = poll.atMs;
    poll = await stage.until(() => stage.called('monitor', last), 'the next poll');
  }
  await sleep(poll.atMs + afterMs - now());
  return poll;
}

/** What an operator who looks at the cluster finds out; VESPER says what happened when the resource is there again. */
export async function cause(stage: Stage, mode: Mode, experiment: Experiment): Promise<string> {
  const { web, node } = stage;
  const deadline = performance.now() + causeWithinMs;
  const look = (): Promise<string> => node.check('crm_mon', '--one-shot', '--show-node-attributes');
  let said = await look();
  while (mode === 'VESPER' && !said.includes(told[experiment]) && performance.now() < deadline) {
    await sleep(100);
    said = await look();
  }
  const lines = said.split('\n').map((line) => line.trim().replace(/^\* /, ''));
  const about = [`${web.server} `, `vesper-${web.server} `];
  const found = lines.filter(
    (line) => about.some((start) => line.startsWith(start)) && !line.includes('Started'),
  );
  if (found.length === 0) throw new Error(`crm_mon says nothing of it: ${said}`);
  return found.map((line) => line.replace(/\s+/g, ' ')).join('\n');
}

const isPollBefore =
  (limitMs: number) =>
  ({ task, atMs }: Stage['calls'][number]): boolean =>
    task === 'monitor' && atMs <= limitMs;

const now = (): number => wallMsOf(Number(process.hrtime.bigint()));
