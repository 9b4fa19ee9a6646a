// SPDX-License-Identifier: Apache-2.0

/** What the service remembers of each guest's session, one file per guest, so that its successor can go on. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { messageOf } from '../error.ts';
import type { Remembered } from '../guest/session-options.ts';
import type { Logger } from '../log.ts';
import { writeAtomically } from './wanted.ts';

const rememberedFile = z.object({
  bootId: z.string(),
  epoch: z.string(),
  probes: z.array(z.object({ slot: z.number(), name: z.string(), sha256: z.string(), args: z.string() })),
});

export class SessionMemory {
  readonly #directory: string;
  readonly #log: Logger;

  constructor(directory: string, log: Logger) {
    this.#directory = directory;
    this.#log = log;
  }

  /** A file that cannot be used costs the names of events written meanwhile, nothing else: it is reported and left out. */
  load(uuid: string): Remembered | undefined {
    const path = this.#path(uuid);
    try {
      return rememberedFile.parse(JSON.parse(readFileSync(path, 'utf8')));
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== 'ENOENT')
        this.#log.warn(`cannot use ${path}: ${messageOf(thrown)}`);
      return undefined;
    }
  }

  save(uuid: string, state: Remembered): void {
    try {
      writeAtomically(this.#path(uuid), `${JSON.stringify(state)}\n`);
    } catch (thrown) {
      this.#log.error(messageOf(thrown));
    }
  }

  #path(uuid: string): string {
    return join(this.#directory, `${uuid}.json`);
  }
}
