// SPDX-License-Identifier: Apache-2.0

/**
 * `guest-health GUEST`: one line that says how a guest is, for cluster managers; exit status 1 where that is one of the
 * failures asked for, 2 for wrong usage, else 0. A service that cannot be asked is no failure of the guest. A program of its
 * own, since it is run every few seconds for each guest: it loads a tenth of what `vesper` loads.
 */

import { readFileSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { ApiClient } from '../api/client.ts';
import type { GuestHealth } from '../api/view.ts';
import { messageOf } from '../error.ts';
import { apiSocketPath, defaultRunDirectory } from '../service/config.ts';

const timeLimitMs = 3_000;
const failures = ['dead', 'stopped', 'silent'] as const satisfies readonly GuestHealth[];
const wrongUsage = 2;
const usage = `usage: guest-health [--fail-on ${failures.join(',')}] [--run-dir DIR] [GUEST]`;

interface Question {
  readonly guest: string;
  readonly failOn: readonly string[];
  readonly runDirectory: string;
}

function question(): Question {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      'fail-on': { type: 'string', default: 'dead,stopped' },
      'run-dir': { type: 'string', default: defaultRunDirectory() },
    },
  });
  const failOn = values['fail-on'].split(/[\s,]+/).filter((word) => word !== '');
  const wrong = failOn.find((word) => !(failures as readonly string[]).includes(word));
  if (wrong !== undefined) throw new Error(`--fail-on ${wrong}: may be ${failures.join(', ')}`);
  const guest = positionals.length === 0 ? domainOfResource() : positionals[0];
  if (guest === undefined || guest === '' || positionals.length > 1) throw new Error('name one guest');
  return { guest, failOn, runDirectory: values['run-dir'] };
}

/** Without arguments: as one of a VirtualDomain's `monitor_scripts`, which get none, but the domain's file. */
function domainOfResource(): string | undefined {
  const file = process.env['OCF_RESKEY_config'];
  if (file === undefined) return undefined;
  const [, name] = /<name>\s*([^<]+?)\s*<\/name>/.exec(readFileSync(file, 'utf8')) ?? [];
  if (name === undefined) throw new Error(`${file} has no <name>`);
  return name;
}

async function healthOf({ guest, runDirectory }: Question): Promise<readonly [GuestHealth, string]> {
  try {
    const { health, reason } = await new ApiClient(apiSocketPath(runDirectory)).guest(guest);
    return [health, reason];
  } catch (thrown) {
    return ['unknown', messageOf(thrown)];
  }
}

/** At once: a connection to a service that does not answer would keep the program. */
function end(status: number, line: string): never {
  // The guest may have written a part of it.
  writeSync(status === wrongUsage ? 2 : 1, `${line.replaceAll(/[^\x20-\x7e]+/g, ' ')}\n`);
  process.exit(status);
}

function main(): void {
  let asked: Question;
  try {
    asked = question();
  } catch (thrown) {
    end(wrongUsage, `guest-health: ${messageOf(thrown)}; ${usage}`);
  }
  setTimeout(
    () => end(0, `unknown: the vesper service did not answer within ${timeLimitMs} ms`),
    timeLimitMs,
  );
  void healthOf(asked).then(([health, reason]) =>
    end(asked.failOn.includes(health) ? 1 : 0, `${health}: ${reason}`),
  );
}

main();
