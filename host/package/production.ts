// SPDX-License-Identifier: Apache-2.0

/** The npm packages that the program needs when it runs, as the lock names them. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { VesperError } from '../error.ts';
import { projectRoot } from '../kernel/project.ts';

export interface NpmPackage {
  /** `node_modules/pino`, below the top of the tree. */
  readonly path: string;
  readonly name: string;
  readonly license: string;
}

const lock = z.object({
  packages: z.record(z.string(), z.object({ dev: z.boolean().optional(), optional: z.boolean().optional() })),
});
/** Some say it the way npm had it before 2015. */
const manifest = z
  .object({
    name: z.string(),
    license: z.string().optional(),
    licenses: z.array(z.object({ type: z.string() })).optional(),
  })
  .transform(({ name, license, licenses = [] }) => ({
    name,
    license: license ?? licenses.map(({ type }) => type).join(' OR '),
  }))
  .refine(({ license }) => license !== '', 'names no licence');

/** Sorted by path. Throws `HOST` where one is not installed. */
export function productionPackages(): readonly NpmPackage[] {
  const { packages } = lock.parse(readJson('package-lock.json'));
  return Object.entries(packages)
    .filter(([path, { dev, optional }]) => path !== '' && dev !== true && optional !== true)
    .map(([path]) => ({ path, ...manifest.parse(readJson(join(path, 'package.json'))) }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

const neverNeeded = /(^|\/)(test|tests|examples?|docs|benchmarks?|\.github)\//;

/** Whether a file of an npm package takes part when the program runs, or has to go with it: a licence. */
export function isNeeded(file: string): boolean {
  if (/(^|\/)node_modules\//.test(file)) return false; // A package of its own in the lock.
  if (/(^|\/)(licen[cs]e|notice|copying)[^/]*$/i.test(file)) return true;
  // What begins with a dot is for tools of its developers.
  return /(^|\/)[^./][^/]*\.(c?js|mjs|json|node)$/.test(file) && !neverNeeded.test(file);
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(join(projectRoot, path), 'utf8'));
  } catch (cause) {
    throw new VesperError('HOST', `${path} cannot be read; run: make build`, { cause });
  }
}
