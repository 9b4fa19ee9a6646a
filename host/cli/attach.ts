// SPDX-License-Identifier: Apache-2.0

import { resolve } from 'node:path';
import { Command } from 'commander';
import { apiOf, collect, example } from './context.ts';
import { printResults } from './results.ts';

interface Options {
  readonly param: readonly string[];
  readonly selfTest: boolean;
  readonly force: boolean;
  readonly json?: boolean;
}

export function attachCommand(): Command {
  return new Command('attach')
    .description('Load probes into a running guest; returns when they are armed, or with the reason why not.')
    .argument('<guest>', 'name or UUID')
    .argument('<probe...>', 'names of the catalogue, or .ko files')
    .option('--param <k=v>', 'a parameter: name=value, or probe.name=value (may be repeated)', collect, [])
    .option('--no-self-test', 'do not let the probe prove that its handlers run')
    .option('--force', 'push although the check says that it will not load', false)
    .option('--json', 'print the results as JSON')
    .addHelpText(
      'after',
      example('vesper attach web1 signal oom\nvesper attach web1 signal --param signals=SIGKILL,SIGSEGV'),
    )
    .action(async (guest: string, probes: readonly string[], options: Options, command: Command) => {
      const results = await apiOf(command).attach(guest, {
        // The service has another working directory.
        probes: probes.map((probe) =>
          probe.endsWith('.ko') || probe.includes('/') ? resolve(probe) : probe,
        ),
        parameters: options.param,
        self_test: options.selfTest,
        force: options.force,
      });
      printResults(results, options.json === true);
    });
}
