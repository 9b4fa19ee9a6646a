// SPDX-License-Identifier: Apache-2.0

/** `vesper probes [PROBE]`: the catalogue, or one probe of it. */

import { Command } from 'commander';
import { mendProgram } from '../installed.ts';
import { Catalogue, type CatalogueProbe } from '../probe/catalogue.ts';
import { describeProbe } from '../probe/describe.ts';
import { builtCatalogueRoots } from './catalogue-roots.ts';
import { collect, example } from './context.ts';
import { heading, printProbe } from './probe-page.ts';
import { printable, Terminal } from './terminal.ts';

interface Options {
  readonly json?: boolean;
  readonly catalogue: readonly string[];
}

export function probesCommand(): Command {
  return new Command('probes')
    .description(
      'The probes of the catalogue, or what one of them declares: events, fields, parameters, kernels.',
    )
    .argument('[probe]', 'name of a probe')
    .option('--catalogue <dir>', 'a directory with probe images (may be repeated)', collect, [])
    .option('--json', 'print everything as JSON')
    .addHelpText('after', example('vesper probes\nvesper probes signal'))
    .action(async (name: string | undefined, { json = false, catalogue: roots }: Options) => {
      const catalogue = new Catalogue(roots.length > 0 ? roots : builtCatalogueRoots());
      const terminal = new Terminal();
      if (name === undefined) return listProbes(terminal, catalogue, json);
      const probe = await catalogue.find(name);
      if (json) return terminal.json(describeProbe(probe));
      printProbe(terminal, probe.images[0].image);
      printBuilds(terminal, probe);
    });
}

async function listProbes(terminal: Terminal, catalogue: Catalogue, json: boolean): Promise<void> {
  const { probes, problems } = await catalogue.list();
  if (json) return terminal.json({ probes: probes.map(describeProbe), problems });
  if (probes.length === 0) {
    terminal.paragraph(`The catalogue is empty. Get the probes that belong to VESPER with: ${mendProgram}`);
  } else {
    terminal.table(
      [
        { title: 'PROBE' },
        { title: 'VERSION' },
        { title: 'EVENTS', align: 'right' },
        { title: 'KERNELS', align: 'right' },
        { title: 'DESCRIPTION', flexible: true },
      ],
      probes.map(({ name, images: [{ image }, ...others] }) => [
        printable(name),
        printable(image.version || '-'),
        String(image.declaration?.events.length ?? 0),
        String(others.length + 1),
        printable(image.declaration?.doc ?? image.description),
      ]),
    );
  }
  const warnings = new Terminal(process.stderr);
  for (const { path, problem } of problems) {
    warnings.paragraph(`${warnings.style('yellow', 'warning:')} ${printable(`${path}: ${problem}`)}`);
  }
}

function printBuilds(terminal: Terminal, { images }: CatalogueProbe): void {
  heading(terminal, 'Built for');
  terminal.table(
    [
      { title: 'KERNEL' },
      { title: 'ARCHITECTURE' },
      { title: 'BYTES', align: 'right' },
      { title: 'SHA-256' },
    ],
    images.map(({ kernelRelease, image }) => [
      printable(kernelRelease),
      image.architecture,
      String(image.bytes.length),
      image.sha256.slice(0, 12),
    ]),
    { indent: 2 },
  );
}
