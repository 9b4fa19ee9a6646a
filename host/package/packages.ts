// SPDX-License-Identifier: Apache-2.0

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { scratchDirectory } from '../kernel/cache.ts';
import { runCommand } from '../kernel/command.ts';
import { projectRoot } from '../kernel/project.ts';
import { version } from '../version.ts';
import { type Control, type DebOptions, packDeb } from './deb.ts';
import { layOutDkms } from './dkms-package.ts';
import { layOutHost } from './host-package.ts';
import { Stage } from './stage.ts';

const layouts = {
  vesper: layOutHost,
  'vesper-dkms': async (stage: Stage) => layOutDkms(stage),
} satisfies Record<string, (stage: Stage, scratch: string, version: string) => Promise<Control>>;

export type PackageName = keyof typeof layouts;
export const packageNames = Object.keys(layouts) as readonly PackageName[];

export interface PackageOptions extends Pick<DebOptions, 'compression'> {
  /** `build/package` unless given. */
  readonly output?: string;
  /** Of the service; that of the program unless given. */
  readonly version?: string;
}

/** Makes a Debian package of what is built; the same bytes of the same tree. Returns its path. */
export async function makePackage(name: PackageName, options: PackageOptions = {}): Promise<string> {
  const output = options.output ?? join(projectRoot, 'build/package');
  const scratch = scratchDirectory(join(projectRoot, 'build'), '.package-');
  try {
    const stage = new Stage(join(scratch, 'root'));
    const control = await layouts[name](stage, scratch, options.version ?? version);
    const epoch = await lastChange();
    const changelog = `${name} (${control.version}) stable; urgency=medium\n\n  * See the history of the source.\n\n -- VESPER developers <vesper@localhost>  ${new Date(epoch * 1000).toUTCString().replace('GMT', '+0000')}\n`;
    stage.write(`/usr/share/doc/${name}/changelog.gz`, gzipSync(changelog, { level: 9 }));
    return await packDeb(stage, control, { output, epoch, compression: options.compression ?? 'xz' });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Seconds since 1970, as $SOURCE_DATE_EPOCH says; else of the last commit; else, without git, of the first. */
async function lastChange(): Promise<number> {
  const { SOURCE_DATE_EPOCH: given } = process.env;
  if (given !== undefined && /^\d+$/.test(given)) return Number(given);
  const { status, stdout } = await runCommand('git', ['-C', projectRoot, 'log', '-1', '--format=%ct'], {
    accept: [0, 128],
    package: 'git',
  });
  return status === 0 ? Number(stdout) : 0;
}
