// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { dkmsTree } from '../../host/install/dkms-tree.ts';
import { version } from '../../host/version.ts';
import { repository } from '../harness/rig.ts';

const tree = dkmsTree();
const read = (path: string): string => readFileSync(join(repository, 'guest-module', path), 'utf8');

test('frontend, DKMS package and program have one version', () => {
  expect(read('dkms.conf')).toContain(`PACKAGE_NAME="${tree.name}"\nPACKAGE_VERSION="${version}"\n`);
  expect(read('vesper.h')).toContain(`#define VESPER_FRONTEND_VERSION "${version}"\n`);
  expect(tree.directory).toBe(`/usr/src/vesper-${version}`);
});

test('every object that Kbuild names has its source in the tree, and every header that a source includes', () => {
  const paths = new Set(tree.sources.map(({ path }) => path.slice(tree.directory.length + 1)));
  const objects = [...read('Kbuild').matchAll(/\b(\w+)\.o\b/g)].map(([, object]) => object);
  expect(objects.length).toBeGreaterThan(20);
  expect(objects.filter((object) => object !== 'vesper' && !paths.has(`${object}.c`))).toEqual([]);
  const included = [...paths].flatMap((path) =>
    [...read(path).matchAll(/^#include (?:"|<(?=vesper\/))(.+?)[">]/gm)].map(([, header]) => header ?? ''),
  );
  expect(included.length).toBeGreaterThan(20);
  expect(included.filter((header) => !paths.has(header) && !paths.has(`include/${header}`))).toEqual([]);
});
