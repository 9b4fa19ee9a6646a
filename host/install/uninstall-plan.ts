// SPDX-License-Identifier: Apache-2.0

/** What has to be done so that nothing of the frontend is left in a guest; packages that came with it stay. */

import { VesperError } from '../error.ts';
import type { Action } from './action.ts';
import type { DkmsTree } from './dkms-tree.ts';
import { removeEarly } from './early-module.ts';
import type { GuestFacts } from './guest-facts.ts';

const minutes = 60_000;

/** In their order; none: nothing is there. Throws `REFUSED` where a package manager has to do it. */
export function uninstallPlan(facts: GuestFacts, { name, boot }: DkmsTree): readonly Action[] {
  if (facts.sourcePackage !== '') {
    throw new VesperError(
      'REFUSED',
      `the frontend came with the guest's package ${facts.sourcePackage}. In the guest: sudo apt-get purge ${facts.sourcePackage}`,
    );
  }
  const versions = [...new Set(facts.dkms.map(({ version }) => version))];
  const { earlyFolders } = facts;
  const stray = versions.length === 0 && earlyFolders.length === 0 && facts.installed.version !== '';
  const paths = [...facts.sourceFolders, ...(facts.hasBootFile ? [boot.path] : [])];
  return [
    ...(facts.loaded.sources === '' ? [] : [unload(name)]),
    ...versions.map((version) => ({
      what: `remove ${name} ${version} from DKMS and from all kernels`,
      script: `dkms remove -m ${name} -v ${version} --all`,
      timeoutMs: 5 * minutes,
    })),
    ...(earlyFolders.length > 0 ? [removeEarly(earlyFolders)] : []),
    ...(stray
      ? [
          {
            what: 'remove the module, which DKMS does not know',
            script: `rm -f /lib/modules/*/updates/dkms/${name}.ko* && depmod -a`,
            timeoutMs: 5 * minutes,
          },
        ]
      : []),
    ...(paths.length > 0
      ? [{ what: `remove ${paths.join(', ')}`, script: `rm -rf ${paths.join(' ')}`, timeoutMs: minutes }]
      : []),
  ];
}

const unload = (name: string): Action => ({
  what: 'unload it',
  script: `[ ! -d /sys/module/${name} ] || rmmod ${name}`,
  timeoutMs: minutes,
  advice: (output) =>
    /is in use/.test(output)
      ? 'Probes are loaded on it. Where a service has them: vesper detach GUEST --all; else take them out in the guest: rmmod PROBE (lsmod names them). Then run this again.'
      : undefined,
});
