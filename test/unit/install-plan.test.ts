// SPDX-License-Identifier: Apache-2.0

/** What is done to a guest, by what it is like; and what people are told who have to do it themselves. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { dkmsTree } from '../../host/install/dkms-tree.ts';
import { earlyServes } from '../../host/install/early-module.ts';
import { type GuestFacts, guestFacts } from '../../host/install/guest-facts.ts';
import { installPlan } from '../../host/install/install-plan.ts';
import type { Remote, RunOptions } from '../../host/install/remote.ts';
import { headersPackage, signatureProblem, updateProblem } from '../../host/install/requirements.ts';
import { RootShell } from '../../host/install/root-shell.ts';
import { uninstallPlan } from '../../host/install/uninstall-plan.ts';
import { ustarArchive } from '../../host/install/ustar.ts';

const tree = dkmsTree();
const kernel = '6.1.0-56-cloud-amd64';
const bare: GuestFacts = {
  distributions: ['debian'],
  distribution: 'Debian GNU/Linux 12 (bookworm)',
  kernel,
  architecture: 'x86_64',
  bootId: '0',
  uuid: '',
  hasHeaders: true,
  hasApt: true,
  headerPackages: ['linux-headers-cloud-amd64'],
  missingPrograms: [],
  lockdown: 'none',
  secureBoot: false,
  signaturesForced: false,
  keyEnrolled: false,
  modulesDisabled: false,
  freeKib: 1 << 20,
  dkms: [],
  sourcePackage: '',
  sourcesMatch: false,
  sourceFolders: [],
  earlyFolders: [],
  loadsAtBoot: false,
  hasBootFile: false,
  installed: { version: '', sources: '' },
  loaded: { version: '', sources: '' },
  holders: [],
};
const done: GuestFacts = {
  ...bare,
  dkms: [{ version: tree.version, kernel, state: 'installed' }],
  sourcesMatch: true,
  sourceFolders: [tree.directory],
  loadsAtBoot: true,
  hasBootFile: true,
  installed: { version: tree.version, sources: 'ABC' },
  loaded: { version: tree.version, sources: 'ABC' },
};
const whats = (facts: GuestFacts): readonly string[] => installPlan(facts, tree).map(({ what }) => what);
const scripts = (facts: GuestFacts): string =>
  installPlan(facts, tree)
    .map(({ script }) => script)
    .join('\n');

test('nothing is done where all is there; what is not is, alone', () => {
  expect(whats(done)).toEqual([]);
  expect(whats({ ...done, loadsAtBoot: false })).toEqual(['have it loaded at boot']);
  expect(whats({ ...done, loaded: { version: '', sources: '' } })).toEqual(['load it']);
  expect(whats({ ...done, loaded: { version: '0.0.9', sources: 'OLD' } })).toEqual(['load it']);
  expect(whats({ ...done, sourceFolders: [tree.directory, '/usr/src/vesper-0.0.9'] })).toEqual([
    'remove /usr/src/vesper-0.0.9',
  ]);
  // A kernel that came by itself, and for which DKMS could not build.
  expect(whats({ ...done, kernel: '6.1.0-57-cloud-amd64' })).toEqual([
    `build vesper ${tree.version} for 6.1.0-57-cloud-amd64`,
    `install vesper ${tree.version} for 6.1.0-57-cloud-amd64, and for every later kernel`,
    'load it',
  ]);
});

test('a module of the host serves a guest that has none, and takes one that is not signed', () => {
  expect(earlyServes(bare)).toBe(true);
  expect(earlyServes({ ...bare, lockdown: '' })).toBe(true);
  expect(earlyServes({ ...bare, lockdown: 'integrity' })).toBe(false);
  expect(earlyServes({ ...bare, signaturesForced: true })).toBe(false);
  expect(earlyServes({ ...bare, sourcePackage: 'vesper-dkms' })).toBe(false);
  expect(earlyServes(done)).toBe(false);
  // Installed and not loaded: by a host before, or by DKMS.
  const installed = { ...bare, installed: done.installed };
  expect(earlyServes({ ...installed, earlyFolders: [`/lib/modules/${kernel}/updates/vesper`] })).toBe(true);
  expect(earlyServes(installed)).toBe(false);
});

test("DKMS takes the place of the host's module, which uninstall removes, too", () => {
  const folder = `/lib/modules/${kernel}/updates/vesper`;
  const early = { ...bare, earlyFolders: [folder], installed: done.installed, loaded: done.loaded };
  expect(scripts(early)).toContain(`&& rm -rf ${folder} ||`);
  expect(scripts(bare)).not.toContain(folder);
  expect(uninstallPlan(early, tree).map(({ what }) => what)).toEqual(['unload it', `remove ${folder}`]);
});

test('what is missing comes by apt, with the package that brings the headers of later kernels', () => {
  const lacking = { ...bare, hasHeaders: false, missingPrograms: ['dkms', 'make', 'gcc'] };
  expect(whats(lacking)[0]).toBe(`install dkms, make, gcc, linux-headers-${kernel}`);
  expect(scripts(lacking)).toContain('linux-headers-cloud-amd64');
});

test.for([
  ['6.1.0-56-cloud-amd64', 'linux-headers-cloud-amd64'],
  ['6.1.0-56-amd64', 'linux-headers-amd64'],
  ['6.1.0-0.deb11.13-amd64', undefined],
  ['6.12.117+deb13-cloud-amd64', 'linux-headers-cloud-amd64'],
  ['6.8.0-45-generic', 'linux-headers-generic'],
  ['6.8.0-1015-aws', 'linux-headers-aws'],
  ['6.6.30', undefined],
] as const)('headers for what comes after %s: %s', ([release, expected]) => {
  expect(headersPackage({ ...bare, kernel: release })).toBe(expected);
});

test.for([
  [{ architecture: 'aarch64' }, /for x86-64, and this guest is aarch64/],
  [{ kernel: '5.10.0-28-cloud-amd64' }, /needs 5\.19 or later/],
  [{ modulesDisabled: true }, /kernel\.modules_disabled is 1/],
  [{ lockdown: 'confidentiality' }, /lockdown=integrity/],
  [{ freeKib: 1000 }, /make room, apt-get clean/],
  [
    { hasApt: false, hasHeaders: false, distributions: ['rocky', 'rhel', 'centos', 'fedora'] },
    /dnf install -y epel-release && sudo dnf install -y dkms gcc make elfutils-libelf-devel kernel-devel-6\.1/,
  ],
  [{ hasApt: false, missingPrograms: ['dkms'], distributions: ['arch'] }, /pacman -S --needed dkms/],
  [{ hasApt: false, missingPrograms: ['dkms'], distributions: ['alpine'] }, /with the package manager of/],
  [{ dkms: [{ version: '99.0.0', kernel, state: 'installed' }] }, /the guest has frontend 99\.0\.0/],
  [{ sourcePackage: 'vesper-dkms' }, /package vesper-dkms, which is not of version/],
] as const satisfies readonly (readonly [Partial<GuestFacts>, RegExp])[])(
  'refused: %o',
  ([facts, message]) => {
    expect(() => installPlan({ ...bare, ...facts }, tree)).toThrow(message);
  },
);

test('whoever has only the headers of the running kernel is told how to get those of later ones', () => {
  expect(updateProblem(bare)).toBeUndefined();
  expect(updateProblem({ ...bare, headerPackages: [`linux-headers-${kernel}`] })).toContain(
    'apt-get install linux-headers-cloud-amd64',
  );
  expect(updateProblem({ ...bare, headerPackages: [], kernel: '6.6.30' })).toBeUndefined();
});

test('a kernel that wants signatures is told apart', () => {
  expect(signatureProblem(bare)).toBeUndefined();
  expect(signatureProblem({ ...bare, lockdown: 'integrity', secureBoot: true })).toContain(
    'locked down by Secure Boot',
  );
  expect(signatureProblem({ ...bare, lockdown: 'integrity', keyEnrolled: true })).toBeUndefined();
  expect(
    signatureProblem({ ...bare, signaturesForced: true, distributions: ['ubuntu', 'debian'] }),
  ).toContain('mokutil --import /var/lib/shim-signed/mok/MOK.der');
});

test('uninstall removes what is there, and leaves to a package manager what is its', () => {
  expect(uninstallPlan(bare, tree)).toEqual([]);
  expect(uninstallPlan(done, tree).map(({ what }) => what)).toEqual([
    'unload it',
    `remove vesper ${tree.version} from DKMS and from all kernels`,
    `remove ${tree.directory}, ${tree.boot.path}`,
  ]);
  expect(() => uninstallPlan({ ...done, sourcePackage: 'vesper-dkms' }, tree)).toThrow(
    'sudo apt-get purge vesper-dkms',
  );
});

/** A guest that answers as it likes. */
function remoteSaying(answer: (script: string) => string): Remote {
  return {
    where: 'root@web1',
    details: [],
    run: (script: string, _options: RunOptions) =>
      Promise.resolve({
        status: 0,
        stdout: script.startsWith('id ') ? '0\nroot\n' : answer(script),
        stderr: '',
      }),
    close: () => undefined,
  };
}

const factsSaying = async (answer: string): Promise<GuestFacts> =>
  guestFacts(await RootShell.open(remoteSaying(() => answer)), tree, 'root@web1');

test('what a hostile guest says of itself does not get into commands', async () => {
  await expect(factsSaying('kernel=6.1; rm -rf /\nend=yes')).rejects.toThrow('names its kernel');
  await expect(factsSaying('kernel=6.1')).rejects.toThrow('cannot be looked at');
  const facts = await factsSaying(
    [
      `kernel=${kernel}`,
      'dkms=vesper/0.1.0, 6.1.0-9-amd64, x86_64: installed (WARNING! Diff between built and installed module!)',
      'dkms=vesper, 0.0.9, 6.1.0-8-amd64, x86_64: built',
      'dkms=vesper/0.0.8: added',
      'dkms=vesper/$(reboot), 6.1, x86_64: installed',
      'dkms=vesper/0.0.7, `reboot`, x86_64: installed',
      'folder=/usr/src/vesper-0.0.9',
      'folder=/usr/src/vesper-0.0.9 /etc',
      'folder=/usr/src/vesper-../../etc',
      'free=x',
      'free=100',
      'lockdown=none [integrity] confidentiality',
      'end=yes',
    ].join('\n'),
  );
  expect(facts).toMatchObject({
    kernel,
    freeKib: 100,
    lockdown: 'integrity',
    dkms: [
      { version: '0.1.0', kernel: '6.1.0-9-amd64', state: 'installed' },
      { version: '0.0.9', kernel: '6.1.0-8-amd64', state: 'built' },
      { version: '0.0.8', kernel: undefined, state: 'added' },
    ],
    sourceFolders: ['/usr/src/vesper-0.0.9'],
  });
});

test('tar reads the archive of the sources', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vesper-test-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const input = ustarArchive(tree.sources);
  const { status, stderr } = spawnSync('tar', ['-x', '-C', folder], { input, encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  for (const { path, content } of tree.sources) expect(readFileSync(join(folder, path))).toEqual(content);
  expect(readdirSync(join(folder, tree.directory))).toContain('include');
});
