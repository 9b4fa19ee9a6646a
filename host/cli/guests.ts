// SPDX-License-Identifier: Apache-2.0

import { Command } from 'commander';
import type { GuestState, GuestView } from '../api/view.ts';
import { systemCache } from '../installed.ts';
import { apiOf, example } from './context.ts';
import { printable, type Style, Terminal } from './terminal.ts';

const stateStyle: Readonly<Record<GuestState, Style>> = {
  undefined: 'dim',
  stopped: 'dim',
  running: 'yellow',
  reachable: 'yellow',
  active: 'green',
  degraded: 'yellow',
  lost: 'red',
};

const noGuests =
  systemCache === undefined
    ? "no guest yet: the service waits for one where it looks: vesper serve --libvirt looks for libvirt's domains, --qemu and --qemu-dir for QEMU's monitors"
    : 'no guest yet: the service waits for one where it looks: see providers in /etc/vesper/vesper.yaml, then systemctl restart vesper';

export function guestsCommand(): Command {
  return new Command('guests')
    .description('Every guest, its state and why, its probes and what they delivered and lost.')
    .option('--json', 'print everything as JSON')
    .addHelpText('after', example('vesper guests'))
    .action(async (options: { readonly json?: boolean }, command: Command) => {
      const api = apiOf(command);
      const [guests, problems] = await Promise.all([api.guests(), api.problems()]);
      const terminal = new Terminal();
      if (options.json === true) terminal.json(guests);
      else if (guests.length === 0) terminal.line(noGuests);
      else printGuests(terminal, guests);
      for (const { problem } of problems) process.stderr.write(`vesper: ${printable(problem)}\n`);
    });
}

export function printGuests(terminal: Terminal, guests: readonly GuestView[]): void {
  terminal.table(
    [
      { title: 'GUEST' },
      { title: 'STATE' },
      { title: 'CHANNEL' },
      { title: 'RELAY' },
      { title: 'DELIVERED', align: 'right' },
      { title: 'LOST', align: 'right' },
      { title: 'PROBES', flexible: true },
      { title: 'WHY', flexible: true },
    ],
    guests.map((guest) => [
      printable(guest.name),
      terminal.style(stateStyle[guest.state], guest.state),
      /^\S+/.exec(printable(guest.channel))?.[0] ?? '-',
      guest.relay?.backend ?? '-',
      guest.relay === null ? '-' : String(guest.relay.delivered),
      guest.relay === null ? '-' : lostText(terminal, guest),
      guest.probes.map(({ name, loaded }) => (loaded ? printable(name) : `(${printable(name)})`)).join(' ') ||
        '-',
      printable(guest.reason),
    ]),
  );
}

function lostText(terminal: Terminal, { relay }: GuestView): string {
  const lost = (relay?.lost ?? 0) + (relay?.undecodable ?? 0);
  return lost === 0 ? '0' : terminal.style('red', String(lost));
}
