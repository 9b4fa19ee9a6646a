// SPDX-License-Identifier: Apache-2.0

/** What Pacemaker's own log says of operations that ended, with the time it has there. */

export interface ClusterResult {
  readonly resource: string;
  readonly task: string;
  /** `ok`, `not running`, … */
  readonly result: string;
  /** Exact to the tick of the kernel's coarse clock, 4 ms: the log's time is that much too early at most. */
  readonly atMs: number;
}

const pattern =
  /^(\w{3}) +(\d+) (\d\d:\d\d:\d\d\.\d{3}) .*Result of (\w+) operation for (\S+) on \S+: ([^|]*?) *(?:\||$)/;

/** Undefined where a line is about something else. The log has no year: it is `now`'s, or the one before. */
export function clusterResult(line: string, now: Date): ClusterResult | undefined {
  const [, month, day, time, task = '', resource = '', result = ''] = pattern.exec(line) ?? [];
  if (month === undefined) return undefined;
  const inYear = (year: number): number => Date.parse(`${month} ${day} ${year} ${time}`);
  const thisYear = inYear(now.getFullYear());
  const dayMs = 86_400_000;
  const atMs = thisYear > now.getTime() + dayMs ? inYear(now.getFullYear() - 1) : thisYear;
  return { resource, task, result, atMs };
}
