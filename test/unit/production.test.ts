// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { copyrightFile, npmParts } from '../../host/package/copyright.ts';
import { isNeeded, productionPackages } from '../../host/package/production.ts';
import { repository } from '../harness/rig.ts';

test('a package takes what the program depends on, and nothing that only builds or tests it', () => {
  const { dependencies, devDependencies } = JSON.parse(
    readFileSync(join(repository, 'package.json'), 'utf8'),
  ) as Record<'dependencies' | 'devDependencies', Record<string, string>>;
  const names = productionPackages().map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(Object.keys(dependencies)));
  expect(names.filter((name) => name in devDependencies)).toEqual([]);
});

test.each([
  ['lib/index.js', true],
  ['index.cjs', true],
  ['package.json', true],
  ['LICENSE', true],
  ['docs/licence.md', true],
  ['build/Release/addon.node', true],
  ['index.d.ts', false],
  ['lib/index.js.map', false],
  ['README.md', false],
  ['dist/.eslintrc.cjs', false],
  ['test/index.js', false],
  ['lib/test/index.js', false],
  ['lib/testing.js', true],
  ['node_modules/other/index.js', false],
])('of an npm package %s is taken: %s', (file, taken) => {
  expect(isNeeded(file)).toBe(taken);
});

test('the copyright file names every licence once, with its text or where that is', () => {
  const text = copyrightFile(
    npmParts([
      { path: 'node_modules/a', name: 'a', license: 'MIT' },
      { path: 'node_modules/b', name: 'b', license: 'ISC' },
      { path: 'node_modules/c', name: 'c', license: 'MIT' },
    ]),
  );
  expect(text).toContain(
    'Files: usr/lib/vesper/node_modules/c/*\nCopyright: the authors of c\nLicense: MIT\n',
  );
  expect(text.match(/^License: MIT\n .*$/gm)).toEqual([
    'License: MIT\n Permission is hereby granted, free of charge, to any person obtaining a copy',
  ]);
  expect(text).toContain('License: ISC\n The text lies beside the files that are under this licence.\n');
  // A blank line would end a stanza.
  expect(text).toContain('\n .\n The above copyright notice');
});
