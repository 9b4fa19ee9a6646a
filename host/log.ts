// SPDX-License-Identifier: Apache-2.0

/** The one logger. What it writes goes to stderr, a line an entry. */

import { fstatSync } from 'node:fs';
import { type Logger, pino } from 'pino';

export type { Logger };

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

/**
 * Who reads it: `journal` keeps the time itself and takes the priority from `<N>` at the head of a line (sd-daemon(3)); a `pipe`
 * or file gets both; people at a `terminal` get words.
 */
export type LogReader = 'journal' | 'pipe' | 'terminal';

/** Numbers of syslog(3) for pino's levels. */
const priorities: Readonly<Record<number, number>> = { 10: 7, 20: 7, 30: 6, 40: 4, 50: 3, 60: 2 };

/** The service's log. `VESPER_LOG` sets the level unless it is given. */
export function createLog(level: string = process.env['VESPER_LOG'] ?? 'info'): Logger {
  const out = pino.destination({ dest: 2, sync: true });
  const reader = logReader();
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    { write: (entry) => out.write(`${logLine(entry, reader)}\n`) },
  );
}

/** A log that keeps nothing: for commands whose output is for people. */
export function silentLog(): Logger {
  return pino({ level: 'silent' });
}

/** An entry of pino, which is JSON, as the line that its reader gets: message first, facts behind it as name=value. */
export function logLine(entry: string, reader: LogReader): string {
  const { level, time, msg = '', ...facts } = JSON.parse(entry) as Record<string, unknown>;
  const words = [
    ...(reader === 'journal' ? [] : [String(time)]),
    ...(reader === 'terminal' ? [pino.levels.labels[Number(level)] ?? ''] : []),
    String(msg),
    ...Object.entries(facts).map(([name, value]) => `${name}=${factText(value)}`),
  ];
  const priority = reader === 'terminal' ? '' : `<${priorities[Number(level)] ?? 6}>`;
  return `${priority}${words.join(' ').replaceAll(controls, escaped)}`;
}

/** systemd names the stream it gave us by device and inode: somebody may have sent stderr elsewhere since. */
function logReader(): LogReader {
  if (process.stderr.isTTY) return 'terminal';
  const { dev, ino } = fstatSync(2);
  return process.env['JOURNAL_STREAM'] === `${dev}:${ino}` ? 'journal' : 'pipe';
}

function factText(value: unknown): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  return /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
}

/** A guest may name itself and its processes as it likes: it must not begin a line of its own, nor move a cursor. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const controls = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
