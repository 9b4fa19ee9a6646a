// SPDX-License-Identifier: Apache-2.0

/**
 * `node test/evaluate.ts [--rounds N] [--seed N] [--output FOLDER] [--page]`: repeats the evaluation of the original VESPER, polling against
 * VESPER, and writes evaluation.md and evaluation.svg. What was measured so far is in build/evaluation.json after each crash; `--page`
 * makes the page of that and measures nothing. SIGINT or SIGTERM: it ends after the crash that is under way and makes the page of what
 * there is. Exit status 1 where a goal was missed or something could not be measured.
 */

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf } from '../host/error.ts';
import { costs } from './evaluation/costs.ts';
import { cause, crash } from './evaluation/crash.ts';
import { goals } from './evaluation/goals.ts';
import { evaluationPage } from './evaluation/page.ts';
import { plot, timeText } from './evaluation/plot.ts';
import {
  type Crash,
  crashesOf,
  type Experiment,
  experiments,
  intervalMs,
  type Mode,
  modes,
  type Results,
} from './evaluation/results.ts';
import { Stage } from './evaluation/stage.ts';
import { clusterObstacle } from './harness/cluster-obstacle.ts';
import { quantile } from './harness/figure.ts';
import { machineFacts } from './harness/machine-facts.ts';
import { repository } from './harness/rig.ts';

/** Modes and experiments take turns after so many crashes: what changes on the machine meanwhile changes for all. */
const blockRounds = 5;
const mostTries = 3;
/** Crashes that have not begun by then are left out. */
const limitMs = 35 * 60_000;
const kept = join(repository, 'build/evaluation.json');

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: process.env['EVALUATE_ROUNDS'] ?? '20' },
    seed: { type: 'string', default: process.env['EVALUATE_SEED'] ?? '1' },
    output: { type: 'string', default: join(repository, 'docs') },
    page: { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds);
const seed = Number(values.seed);
if (!Number.isInteger(rounds) || rounds < 1 || !Number.isInteger(seed)) {
  process.stderr.write(
    'the number of rounds (EVALUATE_ROUNDS) has to be 1 or more, the seed a whole number\n',
  );
  process.exit(2);
}

const started = performance.now();
const seconds = (): number => (performance.now() - started) / 1e3;
const say = (line: string): unknown =>
  process.stdout.write(`${seconds().toFixed(0).padStart(5)} s  ${line}\n`);

/** Each number from 0 to 1 that it gives is drawn from all the earlier ones and the seed (mulberry32). */
function drawn(from: number): () => number {
  let state = from >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Where between two polls `count` deaths are to be, from 0 to 1: one in each of as many equal parts of the interval, anywhere within
 * it, the parts in any order. A few drawn from the whole would often lie to one side, and so would their mean.
 */
function phasesOf(count: number, draw: () => number): readonly number[] {
  const parts = Array.from({ length: count }, (_, part) => ({ part, place: draw() }));
  parts.sort((a, b) => a.place - b.place);
  return parts.map(({ part }) => (part + draw()) / count);
}

class Run {
  readonly crashes: Crash[] = [];
  readonly causes: Results['causes'][number][] = [];
  readonly failures: string[] = [];
  costs: Results['costs'];
  /** Set by a signal. */
  ended = false;
  /** Of each mode and experiment. */
  readonly #phases = new Map<string, readonly number[]>();
  readonly #load = loadavg()[0]?.toFixed(2) ?? '';
  #versions: Results['facts'] = [];
  #stage: Stage | undefined;
  /** That the stage is set up for. */
  #mode: Mode | undefined;

  async all(): Promise<void> {
    const draw = drawn(seed);
    for (const mode of modes)
      for (const experiment of experiments)
        this.#phases.set(`${experiment}, ${mode}`, phasesOf(rounds, draw));
    try {
      for (let block = 0; block < rounds; block += blockRounds)
        for (const mode of modes)
          for (const experiment of experiments) await this.#block(mode, experiment, block);
      if (this.#goesOn()) await this.#costs();
    } finally {
      await this.#stage?.close();
      this.keep();
    }
  }

  results(): Results {
    const errors = this.crashes.map(({ errorMs }) => errorMs);
    const error =
      errors.length === 0
        ? []
        : ([
            [
              "error of the guest's times",
              `${timeText(quantile(errors, 0.5))} in the median, ${timeText(quantile(errors, 1))} at most`,
            ],
          ] as const);
    return {
      facts: [
        ...machineFacts('TCG'),
        ...this.#versions,
        ...error,
        [
          'load',
          `${this.#load} (one minute's average before it began); the run took ${(seconds() / 60).toFixed(0)} minutes`,
        ],
        ['seed', `${seed}`],
      ],
      rounds,
      seed,
      crashes: this.crashes,
      causes: this.causes,
      costs: this.costs,
      failures: this.failures,
      seconds: seconds(),
    };
  }

  keep(): void {
    mkdirSync(join(repository, 'build'), { recursive: true });
    writeFileSync(`${kept}.new`, `${JSON.stringify(this.results(), undefined, 1)}\n`);
    renameSync(`${kept}.new`, kept);
  }

  #goesOn(): boolean {
    return !this.ended && performance.now() - started < limitMs;
  }

  async #block(mode: Mode, experiment: Experiment, from: number): Promise<void> {
    const end = Math.min(from + blockRounds, rounds);
    for (let round = from; round < end; round += 1) {
      const phase = this.#phases.get(`${experiment}, ${mode}`)?.[round] ?? 0;
      for (let tries = 1; ; tries += 1) {
        if (!this.#goesOn()) return this.#leaveOut(mode, experiment, end - round);
        try {
          if (this.#mode !== mode) await this.#setUp(mode);
          await this.#crash(mode, experiment, phase);
          break;
        } catch (thrown) {
          const words = `${experiment}, ${mode}, try ${tries}: ${messageOf(thrown)}`;
          say(`failed: ${words}`);
          this.failures.push(words.split('\n')[0] ?? '');
          for (const line of this.#stage?.said.slice(-20) ?? []) say(`  ${line}`);
          // Whatever is wrong with it, another one is not.
          await this.#stage?.close().catch((also: unknown) => say(`  ${messageOf(also)}`));
          this.#stage = undefined;
          this.#mode = undefined;
          if (tries === mostTries) {
            this.failures.push(`${experiment}, ${mode}: a crash was given up after ${mostTries} tries`);
            break;
          }
        }
      }
    }
  }

  #leaveOut(mode: Mode, experiment: Experiment, count: number): void {
    const why = this.ended ? 'the run was ended' : `the run may take ${limitMs / 60_000} minutes`;
    this.failures.push(`${experiment}, ${mode}: ${count} crashes left out: ${why}`);
  }

  async #setUp(mode: Mode): Promise<void> {
    const stage = await this.#theStage();
    await stage.serve(mode === 'VESPER' ? 'vesper' : 'nobody');
    await stage.poll(intervalMs[mode]);
    this.#mode = mode;
  }

  async #crash(mode: Mode, experiment: Experiment, phase: number): Promise<void> {
    const stage = await this.#theStage();
    const measured = await crash(stage, mode, experiment, phase);
    this.crashes.push(measured);
    const { sincePollMs, detectedMs, recoveringMs, answeringMs } = measured;
    const number = `${crashesOf(this, mode, experiment).length}/${rounds}`;
    const times = [detectedMs, recoveringMs, answeringMs].map(timeText).join(', ');
    say(
      `${mode.padEnd(9)} ${experiment.padEnd(7)} ${number.padEnd(5)}  ${timeText(sincePollMs)} after a poll; detected, recovering, answering after ${times}`,
    );
    if (!this.causes.some((one) => one.mode === mode && one.experiment === experiment))
      this.causes.push({ mode, experiment, text: await cause(stage, mode, experiment) });
    this.keep();
  }

  async #theStage(): Promise<Stage> {
    if (this.#stage === undefined) {
      say('starting the cluster, and the web server in its virtual machine');
      this.#stage = await Stage.start();
      this.#versions = await this.#stage.versions();
    }
    return this.#stage;
  }

  async #costs(): Promise<void> {
    try {
      this.costs = await costs(await this.#theStage(), say);
    } catch (thrown) {
      say(`failed: costs: ${messageOf(thrown)}`);
      this.failures.push(`costs: ${messageOf(thrown).split('\n')[0]}`);
    }
  }
}

function writePage(results: Results): void {
  mkdirSync(values.output, { recursive: true });
  writeFileSync(join(values.output, 'evaluation.svg'), plot(results));
  writeFileSync(join(values.output, 'evaluation.md'), evaluationPage(results));
  process.stdout.write(`\nwritten: ${join(values.output, 'evaluation.md')}\n`);
  const missed = goals(results).filter(({ met }) => !met);
  for (const { what, goal, measured } of missed)
    process.stdout.write(`missed: ${what}: ${measured}, goal ${goal}\n`);
  for (const line of results.failures) process.stdout.write(`failed: ${line}\n`);
  process.exitCode = missed.length === 0 && results.failures.length === 0 ? 0 : 1;
}

const obstacle = clusterObstacle({ bridge: true });
if (values.page) writePage(JSON.parse(readFileSync(kept, 'utf8')) as Results);
else if (obstacle !== undefined) {
  process.stderr.write(`there can be no cluster with virtual machines on this machine: ${obstacle}\n`);
  process.exitCode = 2;
} else {
  const run = new Run();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      say('ending after this crash; once more ends at once');
      run.ended = true;
    });
  await run.all();
  writePage(run.results());
}
