// SPDX-License-Identifier: Apache-2.0

import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { type LogReader, logLine } from '../../host/log.ts';

/** What a reader gets of one call of the log. */
function lineOf(reader: LogReader, write: (log: pino.Logger) => void): string {
  let line = '';
  const log = pino(
    { base: null, level: 'trace', timestamp: () => ',"time":"2026-01-02T03:04:05.678Z"' },
    { write: (entry: string) => (line = logLine(entry, reader)) },
  );
  write(log);
  return line;
}

describe('a line of the log', () => {
  test('for the journal: priority, message, facts; the time is the journal’s own', () => {
    const write = (log: pino.Logger) =>
      log.info({ guest: 'web1', lost: 0, why: 'two words' }, 'web1: session ended');
    expect(lineOf('journal', write)).toBe('<6>web1: session ended guest=web1 lost=0 why="two words"');
    expect(lineOf('pipe', write)).toBe(
      '<6>2026-01-02T03:04:05.678Z web1: session ended guest=web1 lost=0 why="two words"',
    );
    expect(lineOf('terminal', write)).toBe(
      '2026-01-02T03:04:05.678Z info web1: session ended guest=web1 lost=0 why="two words"',
    );
  });

  test.each([
    ['fatal', 2],
    ['error', 3],
    ['warn', 4],
    ['info', 6],
    ['debug', 7],
    ['trace', 7],
  ] as const)('%s has the priority %i', (level, priority) => {
    expect(lineOf('journal', (log) => log[level]('it happened'))).toBe(`<${priority}>it happened`);
  });

  test('what a guest calls itself starts no line and moves no cursor', () => {
    expect(lineOf('journal', (log) => log.warn({ guest: 'a\n<0>b' }, 'c\r\n<0>panic \u001b[2J'))).toBe(
      '<4>c\\u000d\\u000a<0>panic \\u001b[2J guest="a\\n<0>b"',
    );
  });

  test('an error keeps its message and where it came from', () => {
    const line = lineOf('pipe', (log) => log.error({ err: new Error('gone') }, 'failed'));
    expect(line).toMatch(/^<3>\S+ failed err=\{.*"message":"gone".*"stack":"Error: gone/);
    expect(line).not.toContain('\n');
  });
});
