// SPDX-License-Identifier: Apache-2.0

/** What of the configured probes cannot come about with the catalogue as it is now: not wrong for ever, but worth a sentence. */

import { messageOf } from '../error.ts';
import { Catalogue } from '../probe/catalogue.ts';
import { argumentString } from '../probe/parameters.ts';
import type { ProbeRule } from './config-file.ts';
import { nearest } from './nearest.ts';

export async function adviceOn(
  rules: readonly ProbeRule[],
  catalogueRoots: readonly string[],
): Promise<readonly string[]> {
  const { probes } = await new Catalogue(catalogueRoots).list();
  const names = probes.map(({ name }) => name);
  return rules
    .flatMap((rule) => rule.probes)
    .flatMap(({ name, parameters, where }) => {
      const known = probes.find((probe) => probe.name === name);
      if (known === undefined) {
        const meant = nearest(name, names);
        const hint = meant === undefined ? '' : `: did you mean ${meant}?`;
        return [`${where}: the catalogue (${catalogueRoots.join(', ')}) has no probe ${name}${hint}`];
      }
      try {
        argumentString(known.images[0].image, parameters);
        return [];
      } catch (thrown) {
        return [`${where}: ${messageOf(thrown)}`];
      }
    });
}
