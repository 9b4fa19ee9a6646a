#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0

/** The `vesper` program: parses argv, calls one command, turns errors into a sentence and an exit status. */

import { Command, CommanderError, Option } from 'commander';
import { attachCommand } from './cli/attach.ts';
import { buildCommand } from './cli/build.ts';
import { checkCommand } from './cli/check.ts';
import { completeNamesCommand, completionCommand } from './cli/completion.ts';
import { demoCommand } from './cli/demo.ts';
import { detachCommand } from './cli/detach.ts';
import { doctorCommand } from './cli/doctor.ts';
import { eventsCommand } from './cli/events.ts';
import { guestKernel } from './cli/guest-kernel.ts';
import { guestsCommand } from './cli/guests.ts';
import { incidentsCommand } from './cli/incidents.ts';
import { installCommand, uninstallCommand } from './cli/install.ts';
import { metricsCommand } from './cli/metrics.ts';
import { probesCommand } from './cli/probes.ts';
import { serveCommand } from './cli/serve.ts';
import { Terminal } from './cli/terminal.ts';
import { messageOf, VesperError } from './error.ts';
import { version } from './version.ts';

const usageStatus = 2;

function program(): Command {
  const vesper = new Command('vesper')
    .description('Attach kernel probes to running virtual machines from the hypervisor host.')
    .version(version)
    .addOption(
      new Option('--run-dir <dir>', 'directory of the service socket')
        .env('VESPER_RUN_DIR')
        .default('/run/vesper'),
    )
    .showHelpAfterError('(vesper --help lists the commands)')
    .exitOverride();
  for (const command of [
    guestsCommand,
    probesCommand,
    () => checkCommand(guestKernel),
    attachCommand,
    detachCommand,
    eventsCommand,
    incidentsCommand,
    metricsCommand,
    serveCommand,
    demoCommand,
    buildCommand,
    installCommand,
    uninstallCommand,
    doctorCommand,
    completionCommand,
  ]) {
    vesper.addCommand(command().exitOverride().copyInheritedSettings(vesper));
  }
  vesper.addCommand(completeNamesCommand(), { hidden: true });
  return vesper;
}

async function main(): Promise<void> {
  // A reader that went away (`vesper events | head`) ends the program like any other.
  process.stdout.on('error', (thrown: NodeJS.ErrnoException) =>
    process.exit(thrown.code === 'EPIPE' ? 0 : 1),
  );
  try {
    await program().parseAsync();
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      process.exitCode = thrown.exitCode === 0 ? 0 : usageStatus;
      return;
    }
    const terminal = new Terminal(process.stderr);
    for (const line of messageOf(thrown).split('\n')) terminal.paragraph(`vesper: ${line}`);
    if (!(thrown instanceof VesperError) && process.env['VESPER_DEBUG'] !== undefined) console.error(thrown);
    process.exitCode = thrown instanceof VesperError ? thrown.exitStatus : 1;
  }
}

await main();
