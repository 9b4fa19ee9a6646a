// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { projectRoot } from '../../host/kernel/project.ts';

test('the example of the authoring guide is the probe that is compiled', () => {
  const guide = readFileSync(join(projectRoot, 'docs/probes.md'), 'utf8');
  const example = /^```c\n(.*?)^```$/ms.exec(guide)?.[1];

  expect(example).toBe(readFileSync(join(projectRoot, 'test/fixtures/probes/lifetime/lifetime.c'), 'utf8'));
});
