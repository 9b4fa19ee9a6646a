// SPDX-License-Identifier: Apache-2.0

import {
  chmodSync,
  copyFileSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** The tree of a package while it is laid out. Paths are those of the installed system, absolute. */
export class Stage {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
    mkdirSync(directory, { recursive: true });
  }

  /** Where a file of the installed system lies now. */
  at(path: string): string {
    return join(this.directory, path);
  }

  write(path: string, content: string | Uint8Array, mode = 0o644): void {
    mkdirSync(dirname(this.at(path)), { recursive: true });
    writeFileSync(this.at(path), content);
    chmodSync(this.at(path), mode);
  }

  copy(path: string, from: string, mode = 0o644): void {
    mkdirSync(dirname(this.at(path)), { recursive: true });
    copyFileSync(from, this.at(path));
    chmodSync(this.at(path), mode);
  }

  /** Copies the files of a folder of which `wanted` holds, given their paths below it. */
  copyTree(path: string, from: string, wanted: (file: string) => boolean): void {
    const entries = readdirSync(from, { recursive: true, withFileTypes: true });
    const files = entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(from, join(entry.parentPath, entry.name)));
    for (const file of files.filter(wanted)) this.copy(join(path, file), join(from, file));
  }

  link(path: string, target: string): void {
    mkdirSync(dirname(this.at(path)), { recursive: true });
    symlinkSync(target, this.at(path));
  }

  directoryAt(path: string, mode = 0o755): void {
    mkdirSync(this.at(path), { recursive: true });
    chmodSync(this.at(path), mode);
  }

  /** All files and links, sorted by path. */
  files(): readonly { readonly path: string; readonly bytes: number; readonly link: string | undefined }[] {
    return readdirSync(this.directory, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => {
        const file = join(entry.parentPath, entry.name);
        const link = entry.isSymbolicLink() ? readlinkSync(file) : undefined;
        return {
          path: `/${relative(this.directory, file)}`,
          bytes: link === undefined ? statSync(file).size : 0,
          link,
        };
      })
      .sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** Gives everything one time, so that the same content makes the same package. */
  date(seconds: number): void {
    for (const name of readdirSync(this.directory, { recursive: true, encoding: 'utf8' }))
      lutimesSync(join(this.directory, name), seconds, seconds);
    lutimesSync(this.directory, seconds, seconds);
  }
}
