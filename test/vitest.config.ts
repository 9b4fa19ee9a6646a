// SPDX-License-Identifier: Apache-2.0

import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

const minutes = 60_000;

export default defineConfig({
  test: {
    root: resolve(import.meta.dirname, '..'),
    // Addons are safe in processes of their own only.
    pool: 'forks',
    // How long a state may take to come about: on a busy machine, long.
    expect: { poll: { timeout: 30_000 } },
    coverage: { include: ['host/**/*.ts'], reportsDirectory: 'coverage' },
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: minutes } },
      {
        extends: true,
        test: {
          name: 'integration',
          include: ['test/integration/**/*.test.ts'],
          // Guests under TCG take a core each: side by side they only become slow enough to miss time limits.
          fileParallelism: false,
          testTimeout: 3 * minutes,
          hookTimeout: 3 * minutes,
        },
      },
      {
        extends: true,
        test: { name: 'fuzz', include: ['test/fuzz/**/*.test.ts'], testTimeout: 30 * minutes },
      },
    ],
  },
});
