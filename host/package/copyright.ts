// SPDX-License-Identifier: Apache-2.0

import type { NpmPackage } from './production.ts';

export interface Part {
  /** Patterns of installed files, without the leading slash; `*` for all others. */
  readonly files: string;
  readonly copyright: string;
  /** SPDX. */
  readonly license: string;
  readonly comment?: string;
}

const own = 'the VESPER developers';

/** What is ours: the host's half, then the kernel's. */
export const hostPart: Part = { files: '*', copyright: own, license: 'Apache-2.0' };
export const kernelPart = (files: string): Part => ({ files, copyright: own, license: 'GPL-2.0-only' });

export function npmParts(packages: readonly NpmPackage[]): readonly Part[] {
  return packages.map(({ path, name, license }) => ({
    files: `usr/lib/vesper/${path}/*`,
    copyright: `the authors of ${name}`,
    license,
  }));
}

/** Its npm package brings no licence. */
export const nodePart: Part = {
  files: 'usr/lib/vesper/node_modules/node/*',
  copyright: 'Node.js contributors',
  license: 'MIT',
  comment: `The licences of what Node.js has in it: https://github.com/nodejs/node/blob/${process.version}/LICENSE`,
};

const mit = `Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to
deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or
sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in
all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING
FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS
IN THE SOFTWARE.`;

const texts: Readonly<Record<string, string>> = {
  'Apache-2.0': 'The text is /usr/share/common-licenses/Apache-2.0 on a Debian system.',
  'GPL-2.0-only': 'The text is /usr/share/common-licenses/GPL-2 on a Debian system.',
  MIT: mit,
};

/** Debian's machine-readable copyright file. */
export function copyrightFile(parts: readonly Part[]): string {
  const stanzas = parts.map(({ files, copyright, license, comment }) =>
    [
      `Files: ${files}`,
      `Copyright: ${copyright}`,
      `License: ${license}`,
      ...(comment === undefined ? [] : [`Comment: ${comment}`]),
      '',
    ].join('\n'),
  );
  const licenses = [...new Set(parts.map(({ license }) => license))].map((license) => {
    const text = texts[license] ?? 'The text lies beside the files that are under this licence.';
    return `License: ${license}\n${text.replace(/^$/gm, '.').replace(/^/gm, ' ')}\n`;
  });
  const head = 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n';
  return [head, ...stanzas, ...licenses].join('\n');
}
