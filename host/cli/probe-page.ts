// SPDX-License-Identifier: Apache-2.0

/** One probe on the terminal: events, fields, probe points, parameters. */

import { type FieldDeclaration, type ProbeImage, probeName } from '../probe/declaration.ts';
import { printable, type Terminal } from './terminal.ts';

/** Names of a set that are shown with its field; `--json` has all. */
const namesShown = 6;

export function printProbe(terminal: Terminal, image: ProbeImage): void {
  const { declaration } = image;
  const doc = declaration?.doc ?? image.description;
  terminal.paragraph(
    `${terminal.style('bold', printable(probeName(image)))}${doc === '' ? '' : `: ${printable(doc)}`}`,
  );
  const facts = [`module ${image.name}`, image.version, image.license, image.author].filter(Boolean);
  terminal.paragraph(printable(facts.join(', ')), 2);
  for (const event of declaration?.events ?? []) {
    heading(terminal, `Event ${event.name} (${event.severity}): ${event.doc}`);
    terminal.table(
      [
        { title: 'FIELD' },
        { title: 'TYPE' },
        { title: 'ROLE' },
        { title: 'UNIT' },
        { title: 'DESCRIPTION', flexible: true },
      ],
      event.fields.map((field) => [
        field.name,
        field.type === 'text' ? `text[${field.size}]` : field.type,
        field.role,
        field.unit === 'none' ? '-' : field.unit,
        printable(field.doc + namesOf(field)),
      ]),
      { indent: 2 },
    );
  }
  if (declaration !== undefined && declaration.points.length > 0) {
    heading(terminal, 'Probe points');
    terminal.table(
      [{ title: 'NAME' }, { title: 'KIND' }, { title: 'REQUIRED' }, { title: 'DESCRIPTION', flexible: true }],
      declaration.points.map(({ name, kind, required, doc }) => [
        name,
        kind,
        required ? 'yes' : 'no',
        printable(doc),
      ]),
      { indent: 2 },
    );
  }
  if (image.parameters.length > 0) {
    heading(terminal, 'Parameters');
    terminal.table(
      [{ title: 'NAME' }, { title: 'TYPE' }, { title: 'DESCRIPTION', flexible: true }],
      image.parameters.map(({ name, type, doc }) => [
        printable(name),
        printable(type || '-'),
        printable(doc),
      ]),
      { indent: 2 },
    );
  }
}

export function heading(terminal: Terminal, text: string): void {
  terminal.line();
  terminal.paragraph(terminal.style('bold', printable(text)));
}

function namesOf({ values }: FieldDeclaration): string {
  if (values === undefined) return '';
  const names = values.values.slice(0, namesShown).map(({ name }) => name);
  if (values.values.length > namesShown) names.push('…');
  return ` (${values.kind === 'flag' ? 'flags ' : ''}${names.join(', ')})`;
}
