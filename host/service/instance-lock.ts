// SPDX-License-Identifier: Apache-2.0

import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { VesperError } from '../error.ts';

/** Keeps two services off the same state directory. A lock whose process is gone does not count. */
export class InstanceLock {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /** Throws HOST where a running service holds it. */
  static take(path: string): InstanceLock {
    for (let attempt = 0; attempt < 2; attempt += 1) {
      try {
        const fd = openSync(path, 'wx', 0o640);
        writeSync(fd, `${process.pid} ${startTimeOf(process.pid)}\n`);
        closeSync(fd);
        return new InstanceLock(path);
      } catch (thrown) {
        if ((thrown as NodeJS.ErrnoException).code !== 'EEXIST') {
          throw new VesperError('HOST', `cannot create ${path}: ${(thrown as Error).message}`, {
            cause: thrown,
          });
        }
        const [pid = '', started = ''] = readFileSync(path, 'utf8').trim().split(' ');
        if (started !== '' && startTimeOf(Number(pid)) === started) {
          throw new VesperError(
            'HOST',
            `another vesper service (process ${pid}) uses this state directory: stop it, or give this one another --state-dir`,
            { data: { pid: Number(pid) } },
          );
        }
        rmSync(path, { force: true });
      }
    }
    throw new VesperError('HOST', `cannot take ${path}: another vesper service starts at the same moment`);
  }

  release(): void {
    rmSync(this.#path, { force: true });
  }
}

/**
 * Start time in clock ticks after boot (proc(5), stat field 22): with the pid it names a process. Empty where it is gone, also
 * where it is dead and nobody has asked how it ended, which it may stay for ever in a container.
 */
function startTimeOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [state = ''] = fields;
    return 'ZX'.includes(state) ? '' : (fields[19] ?? '');
  } catch {
    return '';
  }
}
