// SPDX-License-Identifier: Apache-2.0

import { Command } from 'commander';
import { VesperError } from '../error.ts';
import { apiOf, example } from './context.ts';
import { printEvent, type StreamedEvent } from './event-text.ts';
import { Terminal } from './terminal.ts';

interface Options {
  readonly follow?: boolean;
  readonly guest?: string;
  readonly probe?: string;
  readonly event?: string;
  readonly since?: string;
  readonly after?: string;
  readonly minSeverity?: string;
  readonly where?: string;
  readonly json?: boolean;
}

export function eventsCommand(): Command {
  return new Command('events')
    .description('Events of all guests: the newest ones the service keeps, or with -f those that come.')
    .option('-f, --follow', 'go on with the events that come')
    .option('--guest <guest>', 'only of this guest')
    .option('--probe <probe>', 'only of this probe')
    .option('--event <event>', 'only of this name')
    .option('--since <time>', 'from then on: 30s, 10m, 2h ago, or a date; with -f the default is now')
    .option('--after <id>', 'go on after the event with that id, as --json prints it')
    .option('--min-severity <severity>', 'debug, info, notice, warning or critical')
    .option('--where <conditions>', 'on fields: "signal=SIGKILL and pid>100"; operators = != < <= > >= ~')
    .option('--json', 'one JSON document a line')
    .addHelpText('after', example('vesper events -f --guest web1 --min-severity critical'))
    .action(async (options: Options, command: Command) => {
      const follow = options.follow === true;
      const query = {
        follow: follow ? '1' : '0',
        ...(options.guest === undefined ? {} : { guest: options.guest }),
        ...(options.probe === undefined ? {} : { probe: options.probe }),
        ...(options.event === undefined ? {} : { event: options.event }),
        ...(options.minSeverity === undefined ? {} : { min_severity: options.minSeverity }),
        ...(options.where === undefined ? {} : { where: options.where }),
        ...(options.after === undefined ? {} : { after: options.after }),
        ...(options.since === undefined && follow
          ? {}
          : { since: String(sinceMs(options.since ?? '1970-01-01')) }),
      };
      const terminal = new Terminal();
      let none = true;
      for await (const line of apiOf(command).events(query)) {
        none = false;
        if (options.json === true) terminal.jsonLine(line);
        else if (line['type'] === 'event') printEvent(terminal, line as unknown as StreamedEvent);
        else terminal.line(terminal.style('red', missedText(line)));
      }
      if (none && !follow && options.json !== true)
        process.stderr.write(
          'vesper: no such event is kept: "vesper probes PROBE" names the events of a probe, -f waits for new ones\n',
        );
    });
}

function missedText({ count, reason }: Readonly<Record<string, unknown>>): string {
  switch (reason) {
    case 'restarted':
      return 'the service was started anew: events may be missing here';
    case 'forgotten':
      return `${count} events are no longer kept`;
    default:
      return `${count} events were dropped: this reader is too slow`;
  }
}

const unitMs = { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3 } as const;

/** Milliseconds since 1970; throws USAGE. */
export function sinceMs(text: string, nowMs: number = Date.now()): number {
  const ago = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text);
  if (ago !== null) return nowMs - Number(ago[1]) * unitMs[ago[2] as keyof typeof unitMs];
  const date = Date.parse(text);
  if (Number.isNaN(date))
    throw new VesperError(
      'USAGE',
      `cannot understand the time "${text}": write 30s, 10m, 2h, 1d, or a date such as 2026-11-21T10:00Z`,
    );
  return date;
}
