// SPDX-License-Identifier: Apache-2.0

/**
 * `node test/bench.ts [NAME...]`: runs each test/bench/*.ts, or those named, one after the other, and writes docs/performance.md
 * from the lines of JSON they print. With names it prints the tables and leaves the file alone. Fails where a bench failed or a goal
 * was missed.
 */

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { Machine } from '../host/demo/machine.ts';
import type { Figure } from './harness/figure.ts';
import { repository } from './harness/rig.ts';

const folder = join(repository, 'test/bench');
const timeLimitMs = 20 * 60_000;

interface Outcome {
  readonly name: string;
  /** What the bench says of itself: its first comment. */
  readonly about: string;
  readonly figures: readonly Figure[];
  /** Why there is not all there should be; undefined: it ran to its end. */
  readonly failure: string | undefined;
}

/** The doc comment at the head of a bench. */
function aboutOf(path: string): string {
  const comment = /\/\*\*(.*?)\*\//s.exec(readFileSync(path, 'utf8'))?.[1] ?? '';
  return comment
    .replaceAll(/^\s*\* ?/gm, '')
    .replaceAll(/\s+/g, ' ')
    .trim();
}

function figureOf(line: string): Figure | undefined {
  if (!line.startsWith('{')) return undefined;
  const parsed = JSON.parse(line) as Partial<Figure>;
  const { name, value, unit, goal = null, pass } = parsed;
  if (name === undefined || typeof value !== 'number' || unit === undefined || pass === undefined)
    throw new Error(`no figure: ${line}`);
  return { name, value, unit, goal, pass };
}

async function run(name: string): Promise<Outcome> {
  const path = join(folder, `${name}.ts`);
  process.stdout.write(`${name}\n`);
  const child = spawn(process.execPath, [path], { stdio: ['ignore', 'pipe', 'pipe'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), timeLimitMs);
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
  return {
    name,
    about: aboutOf(path),
    figures,
    failure: broken ?? failureOf(code, signal, figures, complaint),
  };
}

/** A missed goal is a bench that worked: it ends with 1 too, but without an exception. */
function failureOf(
  code: number | null,
  signal: NodeJS.Signals | null,
  figures: readonly Figure[],
  complaint: string,
): string | undefined {
  if (signal !== null) return `ended by ${signal}`;
  if (figures.length === 0) return code === 0 ? 'printed no figure' : reasonIn(complaint);
  const thrown = /^Node\.js v/m.test(complaint);
  if (code !== 0 && (thrown || figures.every(({ pass }) => pass))) return reasonIn(complaint);
  return undefined;
}

const reasonIn = (complaint: string): string =>
  complaint.split('\n').find((line) => /^\w*Error\b/.test(line)) ?? 'it ended with an error';

/** Goals are given without their direction; it follows from value and verdict. */
function goalText({ value, unit, goal, pass }: Figure): string {
  if (goal === null) return '';
  return `${value <= goal === pass ? '≤' : '≥'} ${goal} ${unit}`;
}

function section({ name, about, figures, failure }: Outcome): string {
  const rows = figures.map((figure) => {
    const met = figure.goal === null ? '' : figure.pass ? 'yes' : '**no**';
    return `| ${figure.name} | ${figure.value} ${figure.unit} | ${goalText(figure)} | ${met} |`;
  });
  if (failure !== undefined)
    rows.push(`| ${name} | **failed**: ${failure.replaceAll('|', '/')} | | **no** |`);
  return [
    `## ${name}`,
    about,
    ['| name | measured | goal | met |', '|---|---|---|---|', ...rows].join('\n'),
  ].join('\n\n');
}

/** What the guests of the benches are like, asked of one. */
async function guestText(): Promise<string> {
  await using machine = await Machine.boot({ frontend: false });
  return `${machine.accelerator === 'kvm' ? 'KVM' : 'TCG'}; guest kernel ${await machine.check('uname -r')}`;
}

function machineText(guest: string, load: string): string {
  const qemu = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '';
  const commit = execFileSync('git', ['describe', '--always', '--dirty'], {
    cwd: repository,
    encoding: 'utf8',
  });
  return [
    '| | |',
    '|---|---|',
    `| date | ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC, commit ${commit.trim()} |`,
    `| host | ${cpus()[0]?.model.trim()}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, kernel ${release()} |`,
    `| QEMU | ${qemu.replace('QEMU emulator version ', '')}, ${guest} |`,
    `| Node | ${process.version} |`,
    `| load | ${load} (one minute's average before the first bench) |`,
  ].join('\n');
}

const method = `Written by \`make bench\`. Each bench is a file of [test/bench](../test/bench) that boots its own guests and measures
what it compares side by side in one run; figures are medians of many rounds unless their name says otherwise. Both ends are
real: a stock Debian kernel, the service or the classes it is made of, and the time of a record is the guest's, brought to the
host's clock with the error the table states. Under TCG the guest's code runs many times slower than on hardware, and guest and
host share the cores: ratios carry over to other machines, milliseconds do not. A figure without a goal explains another one.`;

const named = process.argv.slice(2);
const names = named.length > 0 ? named : readdirSync(folder).map((file) => basename(file, '.ts'));
const load = loadavg()[0]?.toFixed(2) ?? '';
const outcomes: Outcome[] = [];
for (const name of names.sort()) outcomes.push(await run(name));
const tables = outcomes.map(section).join('\n\n');
if (named.length > 0) {
  process.stdout.write(`\n${tables}\n`);
} else {
  const guest = await guestText().catch((thrown: unknown) => `no guest booted: ${thrown}`);
  const text = ['# Performance', method, machineText(guest, load), tables].join('\n\n');
  writeFileSync(join(repository, 'docs/performance.md'), `${text}\n`);
  process.stdout.write('\nwritten: docs/performance.md\n');
}
const bad = outcomes.flatMap(({ name, figures, failure }) => [
  ...figures.filter(({ pass }) => !pass).map((figure) => `missed: ${figure.name}`),
  ...(failure === undefined ? [] : [`failed: ${name}: ${failure}`]),
]);
for (const line of bad) process.stdout.write(`${line}\n`);
process.exitCode = bad.length === 0 ? 0 : 1;
