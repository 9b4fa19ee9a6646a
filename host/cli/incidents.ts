// SPDX-License-Identifier: Apache-2.0

/** `vesper incidents [ID]`: what the cluster was told, or one incident with what was done and the last events before. */

import { Command } from 'commander';
import type { IncidentDetailView, IncidentView } from '../api/view.ts';
import { apiOf, example } from './context.ts';
import { printEvent, type StreamedEvent } from './event-text.ts';
import { heading } from './probe-page.ts';
import { printable, type Style, Terminal } from './terminal.ts';

const loud: ReadonlySet<string> = new Set(['unconfirmed', 'failed', 'given_up', 'no_fencing']);

export function incidentsCommand(): Command {
  return new Command('incidents')
    .description(
      'What happened in guests and what the cluster was told of it; or one incident, with the events before it.',
    )
    .argument('[incident]', 'its id, as the list and the attributes of the cluster have it')
    .option('--json', 'print everything as JSON')
    .addHelpText('after', example('vesper incidents\nvesper incidents mip1w2k9'))
    .action(
      async (id: string | undefined, { json = false }: { readonly json?: boolean }, command: Command) => {
        const api = apiOf(command);
        const terminal = new Terminal();
        if (id !== undefined) {
          const incident = await api.incident(id);
          return json ? terminal.json(incident) : printIncident(terminal, incident);
        }
        const incidents = await api.incidents();
        if (json) terminal.json(incidents);
        else if (incidents.length === 0) terminal.line('no incident');
        else printIncidents(terminal, incidents);
      },
    );
}

function printIncidents(terminal: Terminal, incidents: readonly IncidentView[]): void {
  terminal.table(
    [
      { title: 'INCIDENT' },
      { title: 'FIRST EVENT' },
      { title: 'GUEST' },
      { title: 'ACTION' },
      { title: 'OUTCOME' },
      { title: 'EVENTS', align: 'right' },
      { title: 'WHAT', flexible: true },
    ],
    incidents.map((incident) => [
      printable(incident.id),
      incident.first_event.slice(0, 19).replace('T', ' '),
      printable(incident.guest),
      actionText(incident),
      outcomeText(terminal, incident),
      String(incident.count),
      whatText(incident),
    ]),
  );
}

function printIncident(terminal: Terminal, incident: IncidentDetailView): void {
  const { id, guest, count, calls, first_event: first, last_event: last } = incident;
  terminal.line(terminal.style('bold', `${printable(guest)}: incident ${printable(id)}`));
  terminal.paragraph(whatText(incident), 2);
  terminal.line(`  ${first}${count > 1 ? ` to ${last}: ${count} events` : ''}`);
  terminal.line(
    `  ${actionText(incident)} (rule: ${printable(incident.rule)}): ${outcomeText(terminal, incident)}, ${calls} ${calls === 1 ? 'call' : 'calls'}`,
  );
  heading(terminal, 'What was done');
  for (const { time, text } of incident.steps)
    terminal.paragraph(`${terminal.style('dim', time.slice(11, 23))} ${printable(text)}`, 2);
  heading(terminal, 'Events of the guest, up to then');
  for (const event of incident.events) printEvent(terminal, event as unknown as StreamedEvent);
}

const whatText = ({ event, evidence }: IncidentView): string => printable(`${event}: ${evidence}`);
const actionText = ({ action, resource }: IncidentView): string =>
  printable(resource === null ? action : `${action} ${resource}`);

function outcomeText(terminal: Terminal, { outcome }: IncidentView): string {
  if (outcome === null) return terminal.style('yellow', 'not over');
  const style: Style = loud.has(outcome) ? 'red' : outcome === 'done' ? 'green' : 'dim';
  return terminal.style(style, printable(outcome));
}
