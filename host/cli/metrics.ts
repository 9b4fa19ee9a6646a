// SPDX-License-Identifier: Apache-2.0

import { Command } from 'commander';
import { apiOf, example } from './context.ts';

export function metricsCommand(): Command {
  return new Command('metrics')
    .description('The page for Prometheus, once.')
    .addHelpText('after', example('vesper metrics | promtool check metrics'))
    .action(async (_options: unknown, command: Command) => {
      process.stdout.write(await apiOf(command).metrics());
    });
}
