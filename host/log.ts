// SPDX-License-Identifier: Apache-2.0

import { type Logger, pino } from 'pino';

export type { Logger };

/** The service's log: one JSON line per entry on stderr, which journald keeps as it is. `VESPER_LOG` sets the level. */
export function createLog(level: string = process.env['VESPER_LOG'] ?? 'info'): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
}

/** A log that keeps nothing: for commands whose output is for people. */
export function silentLog(): Logger {
  return pino({ level: 'silent' });
}
