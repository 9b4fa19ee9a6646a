// SPDX-License-Identifier: Apache-2.0

/** What has to be done so that the frontend is in a guest, for good: from what the guest is like, nothing is asked here. */

import { VesperError } from '../error.ts';
import type { Action } from './action.ts';
import type { DkmsTree } from './dkms-tree.ts';
import { earlyFolder, placeEarly } from './early-module.ts';
import type { GuestFacts } from './guest-facts.ts';
import { headersPackage, missingPackages, obstacles } from './requirements.ts';
import { ustarArchive } from './ustar.ts';

const minutes = 60_000;

/** What makes the module that this host built serve until the guest has its own. */
export function earlyPlan(facts: GuestFacts, tree: DkmsTree, module?: Uint8Array): readonly Action[] {
  return [
    placeEarly(facts, tree, module),
    ...(facts.loadsAtBoot ? [] : [loadAtBoot(tree)]),
    load(facts, tree),
  ];
}

/** In their order; none: nothing to do. Throws `REFUSED` where something is in the way that only people can change. */
export function installPlan(facts: GuestFacts, tree: DkmsTree): readonly Action[] {
  const problems = [...obstacles(facts), ...versionProblem(facts, tree)];
  if (problems.length > 0) throw new VesperError('REFUSED', problems.join('\n'), { data: { problems } });

  const packages = missingPackages(facts);
  const entry = facts.dkms.find(({ version, kernel }) => version === tree.version && kernel === facts.kernel);
  const stands =
    facts.sourcesMatch && entry?.state === 'installed' && facts.installed.version === tree.version;
  const older = facts.sourceFolders.filter((folder) => folder !== tree.directory);
  return [
    ...(packages.length > 0 ? [installPackages(packages, headersPackage(facts))] : []),
    ...(facts.sourcesMatch ? [] : [copySources(facts, tree)]),
    ...(stands ? [] : [build(facts, tree), installModule(facts, tree)]),
    ...(older.length > 0 ? [removeVersions(facts, tree, older)] : []),
    ...(facts.loadsAtBoot ? [] : [loadAtBoot(tree)]),
    ...(stands && facts.loaded.sources !== '' && facts.loaded.sources === facts.installed.sources
      ? []
      : [load(facts, tree)]),
  ];
}

function versionProblem(facts: GuestFacts, tree: DkmsTree): readonly string[] {
  const { sourcePackage, sourcesMatch } = facts;
  if (sourcePackage !== '' && !sourcesMatch) {
    return [
      `the frontend came with the guest's package ${sourcePackage}, which is not of version ${tree.version}, or was changed: install that of this version, or first take it out (sudo apt-get purge ${sourcePackage}) and run this again`,
    ];
  }
  const newer = facts.dkms
    .filter(({ state }) => state === 'installed')
    .find(({ version }) => compareVersions(version, tree.version) > 0);
  return newer === undefined
    ? []
    : [
        `the guest has frontend ${newer.version}, this program is ${tree.version}: use a vesper of that version, or first take it out: vesper uninstall`,
      ];
}

/** Numbers in them by their value: 0.10.0 after 0.9.0. */
function compareVersions(one: string, other: string): number {
  return one.localeCompare(other, 'en', { numeric: true });
}

function installPackages(packages: readonly string[], forLater: string | undefined): Action {
  const install =
    'DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends';
  // Best effort: a kernel of somebody's own has no such package.
  const later =
    forLater === undefined
      ? ''
      : `\n${install} ${forLater} || echo 'without ${forLater} DKMS cannot follow kernel updates'`;
  return {
    what: `install ${packages.join(', ')}`,
    script: `apt-get -q update || echo 'some package source cannot be reached; going on'
${install} ${packages.join(' ')} || exit${later}`,
    timeoutMs: 15 * minutes,
    advice: (output) =>
      /Unable to locate package (linux-headers\S+)|Package '?(linux-headers[^\s']+)'? has no installation candidate|Couldn't find any package by (?:glob|regex) '?(linux-headers[^\s']+)/.test(
        output,
      )
        ? `The headers of the running kernel are no longer in the archive. In the guest: sudo apt-get dist-upgrade${forLater === undefined ? '' : ` && sudo apt-get install ${forLater.replace('headers', 'image')} ${forLater}`}, sudo reboot, then run this again.`
        : undefined,
  };
}

function copySources(facts: GuestFacts, tree: DkmsTree): Action {
  const { name, version, directory } = tree;
  const known = facts.dkms.some((entry) => entry.version === version);
  // Nobody is to find half of them where DKMS looks.
  const fresh = `${directory}.new`;
  return {
    what: `copy the sources of ${name} ${version}`,
    script: [
      ...(known ? [`dkms remove -m ${name} -v ${version} --all`] : []),
      `rm -rf ${directory} ${fresh}`,
      `mkdir ${fresh}`,
      `tar -x --no-same-owner -f - -C ${fresh}`,
      `mv ${fresh} ${directory}`,
    ].join(' &&\n'),
    input: ustarArchive(
      tree.sources.map(({ path, content }) => ({ path: path.slice(directory.length), content })),
    ),
    timeoutMs: 2 * minutes,
  };
}

function build(facts: GuestFacts, { name, version }: DkmsTree): Action {
  const which = `-m ${name} -v ${version}`;
  return {
    what: `build ${name} ${version} for ${facts.kernel}`,
    script: `dkms status ${which} | grep -q . || dkms add ${which} || exit
dkms status ${which} -k ${facts.kernel} | grep -qE ': (built|installed)' || dkms build ${which} -k ${facts.kernel} || {
	tail -n 15 /var/lib/dkms/${name}/${version}/build/make.log
	exit 1
}`,
    timeoutMs: 15 * minutes,
    advice: () =>
      `All of it is in the guest in /var/lib/dkms/${name}/${version}/build/make.log. Built and tested it was on Debian's 6.1 and 6.12 kernels.`,
  };
}

function installModule({ kernel, earlyFolders }: GuestFacts, tree: DkmsTree): Action {
  const { name, version } = tree;
  const install = `dkms install -m ${name} -v ${version} -k ${kernel} --force`;
  const folder = earlyFolder(kernel, tree);
  const file = `${folder}/${name}.ko`;
  return {
    what: `install ${name} ${version} for ${kernel}, and for every later kernel`,
    // DKMS would keep a module of that name that it finds, and bring it back in the end.
    script: earlyFolders.includes(folder)
      ? `[ ! -e ${file} ] || mv ${file} ${file}.aside
${install} && rm -rf ${folder} || {
	status=$?
	mv ${file}.aside ${file} && depmod ${kernel}
	exit $status
}`
      : install,
    timeoutMs: 5 * minutes,
  };
}

/** After the new one stands: a guest is never without. */
function removeVersions(facts: GuestFacts, tree: DkmsTree, folders: readonly string[]): Action {
  const versions = new Set(facts.dkms.map(({ version }) => version));
  versions.delete(tree.version);
  return {
    what: `remove ${[...versions].join(', ') || folders.join(', ')}`,
    script: [
      ...[...versions].map((version) => `dkms remove -m ${tree.name} -v ${version} --all`),
      `rm -rf ${folders.join(' ')}`,
    ].join(' &&\n'),
    timeoutMs: 5 * minutes,
  };
}

const loadAtBoot = ({ name, boot }: DkmsTree): Action => ({
  what: 'have it loaded at boot',
  script: `mkdir -p ${boot.path.slice(0, boot.path.lastIndexOf('/'))} && echo ${name} >${boot.path}`,
  timeoutMs: minutes,
});

/** Reads anew what is installed: where what is loaded is the same, nothing happens to it. */
const load = ({ kernel }: GuestFacts, { name }: DkmsTree): Action => ({
  what: 'load it',
  script: `loaded=$(cat /sys/module/${name}/srcversion 2>/dev/null)
[ -n "$loaded" ] && [ "$loaded" = "$(modinfo -k ${kernel} -F srcversion ${name})" ] && exit
if [ -d /sys/module/${name} ]; then rmmod ${name} || exit; fi
modprobe ${name} || { status=$?; dmesg | grep -E '${name}|module|Lockdown' | tail -n 5; exit $status; }`,
  timeoutMs: 2 * minutes,
  loads: true,
  advice: loadAdvice,
});

function loadAdvice(output: string): string | undefined {
  if (/is in use/.test(output)) {
    return 'The new frontend is installed and is loaded at the next boot. To have it now: detach the probes (vesper detach GUEST --all) and run this again.';
  }
  if (/Key was rejected|Required key not available|Loading of unsigned module/i.test(output)) {
    return 'The guest loads signed modules only. In the guest: sudo apt-get install mokutil && sudo mokutil --import /var/lib/dkms/mok.pub, reboot, Enroll MOK on the console, then run this again.';
  }
  if (/Operation not permitted/.test(output)) {
    return 'The guest does not let modules be loaded: look at /proc/sys/kernel/modules_disabled and /sys/kernel/security/lockdown in it; in a container none can be.';
  }
  if (/Exec format error|Invalid module format/.test(output)) {
    return 'It was built for another kernel than the one that runs: reboot the guest into its newest kernel, and run this again.';
  }
  if (/Unknown symbol/.test(output)) {
    return "The guest's kernel lacks something: it needs CONFIG_KPROBES, CONFIG_KALLSYMS and CONFIG_MODULES.";
  }
  return undefined;
}
