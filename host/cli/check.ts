// SPDX-License-Identifier: Apache-2.0

/** `vesper check FILE.ko [--guest G]`: what a module declares, whether it would load, and why not. */

import { Command } from 'commander';
import { VesperError } from '../error.ts';
import { checkImage } from '../probe/check.ts';
import { type ProbeImage, probeName } from '../probe/declaration.ts';
import { describeBuild, describeImage } from '../probe/describe.ts';
import type { Finding, GuestKernel } from '../probe/finding.ts';
import { readImage } from '../probe/image.ts';
import { example } from './context.ts';
import { heading, printProbe } from './probe-page.ts';
import { printable, Terminal } from './terminal.ts';

/** What is known of a guest's kernel. Throws NOT_FOUND or UNREACHABLE. */
export type GuestKernelSource = (guest: string, command: Command) => Promise<GuestKernel>;

interface Options {
  readonly guest?: string;
  readonly json?: boolean;
}

/** Without a source there is no `--guest`. */
export function checkCommand(guestKernel?: GuestKernelSource): Command {
  const check = new Command('check')
    .description(
      'What a probe module declares, whether it would load (exit status 4: it would not), and why not.',
    )
    .argument('<file>', 'kernel module (.ko)')
    .option('--json', 'print everything as JSON')
    .action(async (file: string, options: Options, command: Command) => {
      const image = await readImage(file);
      const guest = options.guest === undefined ? undefined : await guestKernel?.(options.guest, command);
      const findings = checkImage(image, guest);
      const terminal = new Terminal();
      if (options.json === true) terminal.json(report(image, guest, findings));
      else print(terminal, image, guest, findings);
      refuse(image, guest, findings);
    });
  if (guestKernel === undefined) return check.addHelpText('after', example('vesper check signal.ko'));
  return check
    .option('--guest <name>', 'check it against this guest too')
    .addHelpText('after', example('vesper check signal.ko\nvesper check signal.ko --guest web1'));
}

function report(image: ProbeImage, guest: GuestKernel | undefined, findings: readonly Finding[]) {
  return {
    probe: describeImage(image),
    build: describeBuild(image),
    guest: guest?.name ?? null,
    loads: !findings.some(({ severity }) => severity === 'error'),
    findings,
  };
}

function print(
  terminal: Terminal,
  image: ProbeImage,
  guest: GuestKernel | undefined,
  findings: readonly Finding[],
): void {
  printProbe(terminal, image);
  heading(terminal, 'Build');
  const build = describeBuild(image);
  terminal.table(
    [
      { title: 'KERNEL' },
      { title: 'ARCHITECTURE' },
      { title: 'BYTES', align: 'right' },
      { title: 'SIGNED' },
      { title: 'SHA-256' },
    ],
    [
      [
        printable(build.kernel_release || '-'),
        build.architecture,
        String(build.bytes),
        build.signed ? 'yes' : 'no',
        build.sha256.slice(0, 12),
      ],
    ],
    { indent: 2 },
  );
  heading(terminal, guest === undefined ? 'Check of the file alone' : `Check against guest ${guest.name}`);
  for (const { severity, sentence } of findings) {
    const word = terminal.style(severity === 'error' ? 'red' : 'yellow', `${severity}:`);
    terminal.paragraph(`${word} ${printable(sentence)}`, 2);
  }
  if (findings.length > 0) return;
  const verdict = guest === undefined ? 'no problem found' : 'it would load';
  terminal.paragraph(terminal.style('green', verdict), 2);
}

function refuse(image: ProbeImage, guest: GuestKernel | undefined, findings: readonly Finding[]): void {
  const errors = findings.filter(({ severity }) => severity === 'error');
  const [first] = errors;
  if (first === undefined) return;
  const where = guest === undefined ? 'any guest' : `guest ${guest.name}`;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : '';
  throw new VesperError(
    'REFUSED',
    `Probe ${probeName(image)} would not load into ${where}: ${first.sentence}${more}`,
    {
      data: { findings },
    },
  );
}
