// SPDX-License-Identifier: Apache-2.0

/**
 * `node test/bench.ts [--output FILE] [NAME...]`: runs each test/bench/*.ts, or those named, one after the other, and writes
 * docs/performance.md from the lines of JSON they print. With names it prints the tables and writes FILE only. A bench that
 * fails or takes too long says so in its table, and the others run all the same. Exit status 1 where one failed or a goal was
 * missed.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Machine } from '../host/demo/machine.ts';
import { failureOf, figureOf } from './harness/bench-output.ts';
import type { Figure } from './harness/figure.ts';
import { machineFacts } from './harness/machine-facts.ts';
import {
  type Facts,
  type Outcome,
  performancePage,
  section,
  shortcomings,
} from './harness/performance-page.ts';
import { repository } from './harness/rig.ts';

const folder = join(repository, 'test/bench');
/** Of one bench: several times what the longest takes. */
const benchLimitMs = 6 * 60_000;
/** Of all; what has not begun by then is not begun. Half of it is used where no other work disturbs. */
const allLimitMs = 15 * 60_000;

/** The doc comment at the head of a bench. */
function aboutOf(path: string): string {
  const comment = /\/\*\*(.*?)\*\//s.exec(readFileSync(path, 'utf8'))?.[1] ?? '';
  return comment
    .replaceAll(/^\s*\* ?/gm, '')
    .replaceAll(/\s+/g, ' ')
    .trim();
}

async function run(name: string, limitMs: number): Promise<Outcome> {
  const path = join(folder, `${name}.ts`);
  const about = aboutOf(path);
  process.stdout.write(`${name}\n`);
  if (limitMs <= 0)
    return { name, about, figures: [], failure: 'not begun: the time for all benches was over', seconds: 0 };
  const started = performance.now();
  // Short: the sockets in it have long names, and their paths may have 107 bytes.
  const scratch = mkdtempSync(join(tmpdir(), 'vesper-b-'));
  const child = spawn(process.execPath, [path], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: scratch },
    // A group of its own, so that what it started ends with it.
    detached: true,
  });
  const group = child.pid;
  let late = false;
  const stop = () => {
    if (group !== undefined) killGroup(group);
    rmSync(scratch, { recursive: true, force: true });
  };
  const timer = setTimeout(() => {
    late = true;
    stop();
  }, limitMs);
  process.once('exit', stop);
  const figures: Figure[] = [];
  let broken: string | undefined;
  createInterface({ input: child.stdout }).on('line', (line) => {
    process.stdout.write(`  ${line}\n`);
    try {
      const figure = figureOf(line);
      if (figure !== undefined) figures.push(figure);
    } catch (thrown) {
      broken = String(thrown);
    }
  });
  let complaint = '';
  child.stderr.on('data', (chunk: Buffer) => {
    process.stderr.write(chunk);
    complaint = (complaint + chunk.toString()).slice(-4000);
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  clearTimeout(timer);
  process.off('exit', stop);
  stop();
  return {
    name,
    about,
    figures,
    failure: late
      ? `took longer than ${Math.round(limitMs / 1e3)} s`
      : (broken ?? failureOf(code, signal, figures, complaint)),
    seconds: (performance.now() - started) / 1e3,
  };
}

/** Ends every process of a group, and removes what its bench and its guests had in shared memory: they no longer can. */
function killGroup(group: number): void {
  const guests = guestsOf(group);
  try {
    process.kill(-group, 'SIGKILL');
  } catch (thrown) {
    // Nobody is left: a bench that came to its end cleaned up itself.
    if ((thrown as NodeJS.ErrnoException).code !== 'ESRCH') throw thrown;
  }
  const left = [`vesper-bench-${group}-`, ...guests.map((guest) => `vesper-${guest}-`)];
  for (const file of readdirSync('/dev/shm'))
    if (left.some((prefix) => file.startsWith(prefix)))
      rmSync(join('/dev/shm', file), { recursive: true, force: true });
}

/** The names that the QEMU processes of a group gave their guests. */
function guestsOf(group: number): readonly string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]) !== group) return [];
      return /\0guest=([^\0,]+)/.exec(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))?.[1] ?? [];
    } catch {
      return []; // it ended meanwhile
    }
  });
}

/** What the guests of the benches are like, asked of one. */
async function guestText(): Promise<string> {
  await using machine = await Machine.boot({ frontend: false });
  return `${machine.accelerator === 'kvm' ? 'KVM' : 'TCG'}; guest kernel ${await machine.check('uname -r')} where no other is named`;
}

const factsOf = (guest: string, load: string, seconds: number): Facts => [
  ...machineFacts(guest),
  [
    'load',
    `${load} (one minute's average before the first bench); the whole run took ${seconds.toFixed(0)} s`,
  ],
];

const { values, positionals } = parseArgs({
  options: { output: { type: 'string' } },
  allowPositionals: true,
});
const output =
  values.output ?? (positionals.length > 0 ? undefined : join(repository, 'docs/performance.md'));
const known = readdirSync(folder).map((file) => basename(file, '.ts'));
const strange = positionals.filter((name) => !known.includes(name));
if (strange.length > 0) {
  process.stderr.write(`no bench is called ${strange.join(', ')}: there are ${known.sort().join(', ')}\n`);
  process.exit(2);
}
// A signal ends this process by way of `exit`, which ends the bench that runs.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1));

const names = positionals.length > 0 ? positionals : known;
const load = loadavg()[0]?.toFixed(2) ?? '';
const started = performance.now();
const outcomes: Outcome[] = [];
for (const name of names.sort()) {
  const left = allLimitMs - (performance.now() - started);
  outcomes.push(await run(name, Math.min(benchLimitMs, left)));
}
const seconds = (performance.now() - started) / 1e3;
if (positionals.length > 0) process.stdout.write(`\n${outcomes.map(section).join('\n\n')}\n`);
if (output !== undefined) {
  const guest = await guestText().catch((thrown: unknown) => `no guest booted: ${thrown}`);
  writeFileSync(output, performancePage(factsOf(guest, load, seconds), outcomes));
  process.stdout.write(`\nwritten: ${output}\n`);
}
for (const line of shortcomings(outcomes)) process.stdout.write(`${line}\n`);
process.exitCode = shortcomings(outcomes).length === 0 ? 0 : 1;
