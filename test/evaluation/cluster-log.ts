// SPDX-License-Identifier: Apache-2.0

/** What Pacemaker's own log says of operations that are asked for or ended, with the time it has there. */

export interface ClusterResult {
  readonly resource: string;
  readonly task: string;
  /** `initiated` by the coordinator; `requested` of who executes it; or how it ended: `ok`, `not running`, … */
  readonly result: string;
  /** Exact to the tick of the kernel's coarse clock, 4 ms: the log's time is that much too early at most. */
  readonly atMs: number;
}

const time = /^(\w{3}) +(\d+) (\d\d:\d\d:\d\d\.\d{3}) /;
const initiated = /Initiating (\w+) operation (\S+)_\1_\d+ (?:locally )?on \S+/;
const requested = /Requesting \w+ execution of (\w+) operation for (\S+) on \S+/;
const ended = /Result of (\w+) operation for (\S+) on \S+: ([^|]*?) *(?:\||$)/;
const dayMs = 86_400_000;

/** Undefined where a line is about something else. The log has no year: it is `now`'s, or the one before. */
export function clusterResult(line: string, now: Date): ClusterResult | undefined {
  const [, task, resource = '', result = initiated.test(line) ? 'initiated' : 'requested'] =
    ended.exec(line) ?? requested.exec(line) ?? initiated.exec(line) ?? [];
  const [, month, day, clock] = time.exec(line) ?? [];
  if (task === undefined || month === undefined) return undefined;
  const inYear = (year: number): number => Date.parse(`${month} ${day} ${year} ${clock}`);
  const thisYear = inYear(now.getFullYear());
  const atMs = thisYear > now.getTime() + dayMs ? inYear(now.getFullYear() - 1) : thisYear;
  return { resource, task, result, atMs };
}
