// SPDX-License-Identifier: Apache-2.0

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { Command } from 'commander';
import { VesperError } from '../error.ts';
import { systemCache } from '../installed.ts';
import { buildModules } from '../kernel/build.ts';
import { fetchHeaders, fetchKernel, type KernelHeaders } from '../kernel/fetch.ts';
import { modulesDirectory, objectsDirectory, projectRoot } from '../kernel/project.ts';
import { kernelKeys } from '../kernel/release.ts';
import { example } from './context.ts';
import { Terminal } from './terminal.ts';

interface Options {
  readonly kernel?: string;
  readonly headers?: string;
  readonly output?: string;
}

export function buildCommand(): Command {
  return new Command('build')
    .description('Build a probe for one kernel; the result goes into the catalogue.')
    .argument('<probe>', 'a folder with the probe, or the name of one under probes/')
    .option('--kernel <release>', `a kernel of Debian: ${kernelKeys.join(', ')}, or its full release`)
    .option('--headers <dir>', 'the headers of any other kernel: /lib/modules/RELEASE/build')
    .option('--output <dir>', 'put the module there instead')
    .addHelpText(
      'after',
      example(
        'vesper build signal --kernel 6.12\nvesper build ./my-probe --headers /lib/modules/$(uname -r)/build',
      ),
    )
    .action((probe: string, options: Options) => build(probe, options));
}

async function build(probe: string, options: Options): Promise<void> {
  const folder = probeFolder(probe);
  const terminal = new Terminal();
  const progress = (line: string): void => terminal.line(terminal.style('dim', line));
  const kernel = await kernelOf(options, progress);
  const output = options.output === undefined ? modulesDirectory(kernel.release) : resolve(options.output);
  const objects = objectsDirectory(kernel.release);
  const frontend = join(projectRoot, 'guest-module');
  const built = modulesDirectory(kernel.release);
  await buildModules(kernel, { name: 'frontend', sources: [frontend] }, { objects, output: built, progress });
  const modules = await buildModules(
    kernel,
    {
      // Two folders of the same name must not share objects.
      name: `${basename(folder)}-${createHash('sha256').update(folder).digest('hex').slice(0, 8)}`,
      sources: [folder],
      includes: [join(frontend, 'include')],
      symvers: join(built, 'Module.symvers'),
    },
    { objects, output, progress },
  );
  for (const module of modules) terminal.line(module);
  if (systemCache !== undefined && options.output === undefined && process.getuid?.() !== 0) {
    terminal.paragraph(
      'The service does not look there: attach it by its path, or build it as root, with sudo.',
    );
  }
}

function probeFolder(probe: string): string {
  const named = join(projectRoot, 'probes', probe);
  if (!probe.includes('/') && existsSync(named)) return named;
  const folder = resolve(probe);
  if (existsSync(folder)) return folder;
  throw new VesperError(
    'NOT_FOUND',
    `there is no probe ${probe}: name a folder under probes/, or a folder of your own`,
  );
}

async function kernelOf(options: Options, progress: (line: string) => void): Promise<KernelHeaders> {
  const { kernel, headers } = options;
  if ((kernel === undefined) === (headers === undefined)) {
    throw new VesperError('USAGE', 'say for which kernel: --kernel RELEASE, or --headers DIRECTORY');
  }
  if (headers !== undefined) return kernelOfHeaders(resolve(headers));
  const key = kernelKeys.find((candidate) => kernel === candidate);
  const found =
    key === undefined ? await fetchHeaders(kernel ?? '', { progress }) : await fetchKernel(key, { progress });
  if (found !== undefined) return found;
  throw new VesperError(
    'NOT_FOUND',
    `Debian's archive has no headers of a kernel ${kernel} (${kernelKeys.join(' and ')} are looked for): copy them from the guest, and name their folder with --headers`,
  );
}

function kernelOfHeaders(headers: string): KernelHeaders {
  // Not include/config/kernel.release: Debian's has the version of the sources in it.
  const file = join(headers, 'include/generated/utsrelease.h');
  const [, release] = existsSync(file)
    ? (/^#define UTS_RELEASE "([\w.+~-]+)"$/m.exec(readFileSync(file, 'utf8')) ?? [])
    : [];
  if (release === undefined) {
    throw new VesperError(
      'NOT_FOUND',
      `${headers} holds no kernel headers: name the directory that has include/generated/utsrelease.h`,
    );
  }
  return { release, headers, compiler: 'gcc' };
}
