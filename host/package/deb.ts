// SPDX-License-Identifier: Apache-2.0

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runCommand } from '../kernel/command.ts';
import { projectRoot } from '../kernel/project.ts';
import type { Stage } from './stage.ts';

/** Fields of Debian's control file beside those that follow from the tree; empty ones are left out. */
export interface Control {
  readonly package: string;
  readonly version: string;
  readonly architecture: 'amd64' | 'all';
  readonly section: string;
  readonly depends: readonly string[];
  readonly recommends?: readonly string[];
  readonly suggests?: readonly string[];
  /** First line of the description, then its paragraphs. */
  readonly summary: string;
  readonly description: readonly string[];
}

export interface DebOptions {
  /** Where the package goes. */
  readonly output: string;
  /** `xz`, as Debian's packages, unless given. */
  readonly compression?: 'xz' | 'none';
  /** Seconds since 1970: the time of every file. */
  readonly epoch: number;
}

const scripts = ['preinst', 'postinst', 'prerm', 'postrm'] as const;
const scriptFolder = join(projectRoot, 'host/package/debian');

/** Packs the tree; files in /etc are conffiles, maintainer scripts are `debian/<package>.<script>`. Returns its path. */
export async function packDeb(stage: Stage, control: Control, options: DebOptions): Promise<string> {
  const files = stage.files();
  const sums = files
    .filter(({ link }) => link === undefined)
    .map(({ path }) => `${md5(stage.at(path))}  ${path.slice(1)}\n`);
  const kib = files.reduce((sum, { bytes }) => sum + Math.max(1, Math.ceil(bytes / 1024)), 0);
  const conffiles = files.filter(({ path }) => path.startsWith('/etc/')).map(({ path }) => `${path}\n`);

  stage.write('/DEBIAN/control', controlFile(control, kib));
  stage.write('/DEBIAN/md5sums', sums.join(''));
  if (conffiles.length > 0) stage.write('/DEBIAN/conffiles', conffiles.join(''));
  for (const script of scripts) {
    const source = join(scriptFolder, `${control.package}.${script}`);
    if (existsSync(source))
      stage.write(
        `/DEBIAN/${script}`,
        readFileSync(source, 'utf8').replaceAll('@VERSION@', control.version),
        0o755,
      );
  }
  stage.date(options.epoch);

  mkdirSync(options.output, { recursive: true });
  const deb = join(options.output, `${control.package}_${control.version}_${control.architecture}.deb`);
  await runCommand(
    'dpkg-deb',
    // With other numbers of threads xz writes other bytes.
    [
      '--root-owner-group',
      '--threads-max=2',
      `-Z${options.compression ?? 'xz'}`,
      '--build',
      stage.directory,
      deb,
    ],
    { package: 'dpkg', env: { ...process.env, SOURCE_DATE_EPOCH: String(options.epoch) } },
  );
  return deb;
}

function controlFile(control: Control, installedKib: number): string {
  const list = (names: readonly string[] = []): string => names.join(', ');
  const fields: readonly (readonly [name: string, value: string])[] = [
    ['Package', control.package],
    ['Version', control.version],
    ['Architecture', control.architecture],
    ['Maintainer', 'VESPER developers <vesper@localhost>'],
    ['Installed-Size', String(installedKib)],
    ['Depends', list(control.depends)],
    ['Recommends', list(control.recommends)],
    ['Suggests', list(control.suggests)],
    ['Section', control.section],
    ['Priority', 'optional'],
    ['Description', [control.summary, ...control.description.flatMap(paragraph)].join('\n')],
  ];
  return fields
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `${name}: ${value}\n`)
    .join('');
}

/** Lines of at most 78 columns, indented by one; a dot stands between paragraphs. */
function paragraph(text: string, index: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line.length + word.length > 77) {
      lines.push(line);
      line = '';
    }
    line += ` ${word}`;
  }
  return [...(index > 0 ? [' .'] : []), ...lines, line];
}

const md5 = (file: string): string => createHash('md5').update(readFileSync(file)).digest('hex');
