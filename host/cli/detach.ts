// SPDX-License-Identifier: Apache-2.0

import { Command } from 'commander';
import { VesperError } from '../error.ts';
import { apiOf, example } from './context.ts';
import { printResults } from './results.ts';

interface Options {
  readonly all?: boolean;
  readonly json?: boolean;
}

export function detachCommand(): Command {
  return new Command('detach')
    .description('Disarm probes at once, then unload them.')
    .argument('<guest>', 'name or UUID')
    .argument('[probe...]', 'names of probes')
    .option('--all', 'every probe of the guest')
    .option('--json', 'print the results as JSON')
    .addHelpText('after', example('vesper detach web1 signal\nvesper detach web1 --all'))
    .action(async (guest: string, probes: readonly string[], options: Options, command: Command) => {
      if ((probes.length === 0) === (options.all !== true)) {
        throw new VesperError('USAGE', 'name the probes to detach, or say --all');
      }
      printResults(await apiOf(command).detach(guest, probes), options.json === true);
    });
}
