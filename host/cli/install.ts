// SPDX-License-Identifier: Apache-2.0

/** `vesper install` and `vesper uninstall`: the frontend into a guest and out of it, over SSH or the guest agent. */

import { Command } from 'commander';
import { VesperError } from '../error.ts';
import type { Action } from '../install/action.ts';
import { type InstallOptions, install, type Progress, uninstall } from '../install/installer.ts';
import type { Remote } from '../install/remote.ts';
import { parseSshTarget } from '../install/ssh-target.ts';
import { apiOf, collect, example } from './context.ts';
import { StepReport } from './step-report.ts';
import { printable, Terminal } from './terminal.ts';

interface Options {
  readonly ssh?: string;
  readonly agent?: string;
  readonly identity: readonly string[];
  readonly knownHosts?: string;
  readonly acceptNew?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function installCommand(): Command {
  return remoteCommand(
    'install',
    'Load the frontend into a guest, now and at every boot and after every kernel update (DKMS), and prove that the service reaches it.',
    install,
    `vesper install web1 --ssh root@192.0.2.7
vesper install web1 --ssh admin@web1.example:2222 --dry-run
vesper install web1 --agent /run/vms/web1.agent`,
  );
}

export function uninstallCommand(): Command {
  return remoteCommand(
    'uninstall',
    'Unload the frontend of a guest and remove all that install wrote there.',
    uninstall,
    'vesper uninstall web1 --ssh root@192.0.2.7',
  );
}

function remoteCommand(
  name: string,
  description: string,
  work: (options: InstallOptions) => Promise<void>,
  lines: string,
): Command {
  return new Command(name)
    .description(description)
    .argument('<guest>', 'name or UUID')
    .option('--ssh <user@host[:port]>', 'log in there; ~/.ssh/config is not read, nothing is asked for')
    .option('--agent <socket>', 'through the QEMU guest agent, by the unix socket of its port')
    .option('--identity <file>', 'a private key to try first (may be repeated)', collect, [])
    .option('--known-hosts <file>', 'host keys, instead of ~/.ssh/known_hosts')
    .option('--accept-new', 'take and remember a host key that is not known yet; never one that changed')
    .option('--dry-run', 'look, say what would be done, and change nothing')
    .option('--json', 'print the steps as NDJSON')
    .addHelpText('after', example(lines))
    .action(async (guest: string, options: Options, command: Command) => {
      const dryRun = options.dryRun === true;
      await work({
        guest,
        connect: connection(options),
        api: apiOf(command),
        progress: progressOf(options.json === true),
        dryRun,
      });
    });
}

/** Throws `USAGE` before anything is done. */
function connection({ ssh, agent, ...options }: Options): () => Promise<Remote> {
  if ((ssh === undefined) === (agent === undefined)) {
    throw new VesperError('USAGE', 'say how to get into the guest: --ssh USER@HOST, or --agent SOCKET');
  }
  // Loaded where they are used: every command would start later for them.
  if (agent !== undefined)
    return async () => (await import('../install/agent-remote.ts')).AgentRemote.connect(agent);
  const target = parseSshTarget(ssh ?? '');
  return async () =>
    (await import('../install/ssh-remote.ts')).SshRemote.connect({
      target,
      identities: options.identity,
      knownHosts: options.knownHosts,
      acceptNew: options.acceptNew === true,
      remember: options.dryRun !== true,
    });
}

function progressOf(json: boolean): Progress {
  const terminal = new Terminal();
  const steps = new StepReport(json, terminal);
  return {
    // Much of what is told was written by the guest.
    step: (name, work) => steps.step(printable(name), (detail) => work((text) => detail(printable(text)))),
    plan: (actions) => {
      if (json)
        terminal.jsonLine({ type: 'plan', actions: actions.map(({ what, script }) => ({ what, script })) });
      else printPlan(terminal, actions);
    },
    note: (text) => {
      if (json) terminal.jsonLine({ type: 'note', text });
      else for (const line of text.split('\n')) terminal.paragraph(printable(line));
    },
  };
}

function printPlan(terminal: Terminal, actions: readonly Action[]): void {
  terminal.line(actions.length === 0 ? 'nothing to do' : 'would, as root:');
  for (const { what, script } of actions) {
    terminal.line(`${terminal.style('bold', '•')} ${printable(what)}`);
    for (const line of script.split('\n'))
      terminal.line(`    ${terminal.style('dim', printable(line.replaceAll('\t', '  ')))}`);
  }
}
