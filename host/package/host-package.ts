// SPDX-License-Identifier: Apache-2.0

import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dkmsTree } from '../install/dkms-tree.ts';
import { runCommand } from '../kernel/command.ts';
import { projectRoot } from '../kernel/project.ts';
import { copyrightFile, hostPart, kernelPart, nodePart, npmParts } from './copyright.ts';
import type { Control } from './deb.ts';
import { isNeeded, productionPackages } from './production.ts';
import type { Stage } from './stage.ts';

/** Laid out as the source tree is, so that the program finds its parts in the same way. */
const tree = '/usr/lib/vesper';
const cache = '/var/cache/vesper';
const node = 'node_modules/node/bin/node';

/**
 * Lays out the service of the host: the program with the Node.js it runs on, probes for the kernels they are built for, and
 * the sources that `vesper build` and `vesper demo` need. Everything has to be built. Returns what goes into its control file.
 */
export async function layOutHost(stage: Stage, scratch: string, version: string): Promise<Control> {
  const manifest = {
    ...{ name: 'vesper', version, private: true, type: 'module', license: 'Apache-2.0' },
    vesper: { cache },
  };
  stage.write(`${tree}/package.json`, `${JSON.stringify(manifest, null, 2)}\n`);
  layOutProgram(stage);
  const npmPackages = productionPackages();
  for (const { path } of npmPackages) stage.copyTree(`${tree}/${path}`, at(path), isNeeded);
  const addons = await layOutBinaries(stage);
  layOutModules(stage);
  await layOutSystem(stage);
  const parts = [
    hostPart,
    ...['guest-module/*', 'probes/*', 'build/*.ko'].map((files) => kernelPart(`usr/lib/vesper/${files}`)),
    nodePart,
    ...npmParts(npmPackages),
  ];
  stage.write('/usr/share/doc/vesper/copyright', copyrightFile(parts));

  // libvirt's client is there where libvirt is, and loaded when a domain is to be looked for.
  const [libvirt, always] = split(addons, (addon) => addon.endsWith('/libvirt.node'));
  const depends = await sharedLibraries(stage, scratch, [`${tree}/${node}`, ...always]);
  const all = await sharedLibraries(stage, scratch, [`${tree}/${node}`, ...always, ...libvirt]);
  return {
    package: 'vesper',
    version,
    architecture: 'amd64',
    section: 'admin',
    depends: [...depends, 'systemd-standalone-sysusers | systemd-sysusers'],
    recommends: all.filter((library) => !depends.includes(library)),
    suggests: [
      ...[
        'build-essential',
        'kmod',
        'xz-utils',
        'debian-archive-keyring',
        'qemu-system-x86',
        'busybox-static',
      ],
    ],
    summary: 'kernel probes for running virtual machines, from the host',
    description: [
      'VESPER attaches kernel probes to running virtual machines from the hypervisor host, and turns what they see into events within milliseconds. It needs no process of the guest.',
      'This is the service of the host and its command line. A guest needs the frontend: package vesper-dkms.',
      'With build-essential it builds probes for further kernels; with QEMU and busybox it shows itself on a throw-away guest (vesper demo).',
    ],
  };
}

const at = (path: string): string => join(projectRoot, path);

/** What was compiled of sources that are still there, but not what only makes packages. */
function layOutProgram(stage: Stage): void {
  const sources = readdirSync(at('host'), { recursive: true, encoding: 'utf8' });
  for (const source of sources.filter((file) => file.endsWith('.ts') && !file.startsWith('package/'))) {
    const compiled = source.replace(/\.ts$/, '.js');
    stage.copy(`${tree}/dist/${compiled}`, at(`dist/${compiled}`));
  }
  stage.copy(`${tree}/dist/vesper`, at('dist/vesper'), 0o755);
  stage.link('/usr/bin/vesper', '../lib/vesper/dist/vesper');
}

/** Node.js and the addons, stripped. Returns where the addons are installed. */
async function layOutBinaries(stage: Stage): Promise<readonly string[]> {
  const addons = readdirSync(at('build/native'))
    .filter((name) => name.endsWith('.node'))
    .map((name) => `build/native/${name}`);
  for (const [path, mode] of [[node, 0o755] as const, ...addons.map((addon) => [addon, 0o644] as const)]) {
    stage.copy(`${tree}/${path}`, at(path), mode);
    await runCommand('strip', ['--strip-unneeded', stage.at(`${tree}/${path}`)], { package: 'binutils' });
  }
  return addons.map((addon) => `${tree}/${addon}`);
}

/** The kernel's half: what was built, and the sources to build more of. */
function layOutModules(stage: Stage): void {
  for (const release of readdirSync(at('build')).filter((name) => /^\d+\.\d+/.test(name)))
    stage.copyTree(`${tree}/build/${release}`, at(`build/${release}`), (file) => /^[^/]+\.ko$/.test(file));
  const frontend = dkmsTree();
  for (const { path, content } of frontend.sources)
    stage.write(`${tree}/guest-module/${path.slice(frontend.directory.length + 1)}`, content);
  stage.copyTree(`${tree}/probes`, at('probes'), (file) => /^[^/]+\/([^/.]+\.[ch]|Kbuild)$/.test(file));
  stage.copyTree(`${tree}/host/demo/guest`, at('host/demo/guest'), () => true);
}

/** What other programs look for in places of their own. */
async function layOutSystem(stage: Stage): Promise<void> {
  const systemd = (name: string): string => at(`host/systemd/${name}`);
  stage.copy('/usr/lib/systemd/system/vesper.service', systemd('vesper.service'));
  stage.copy('/usr/lib/sysusers.d/vesper.conf', systemd('vesper.sysusers'));
  stage.copy('/etc/vesper/vesper.yaml', systemd('vesper.yaml'));
  stage.copy(`${tree}/host/pacemaker/guest-health`, at('host/pacemaker/guest-health'), 0o755);
  stage.copy('/usr/lib/ocf/resource.d/vesper/guest-probe', at('host/pacemaker/guest-probe'), 0o755);
  const completion = await runCommand(process.execPath, [at('dist/main.js'), 'completion', 'bash']);
  stage.write('/usr/share/bash-completion/completions/vesper', completion.stdout);
  stage.copyTree('/usr/share/doc/vesper', at('docs'), () => true);
  stage.directoryAt(cache);
  stage.directoryAt('/var/lib/vesper', 0o750);
}

/** The packages with the libraries that programs and addons are linked with, and the versions that these need. */
async function sharedLibraries(
  stage: Stage,
  scratch: string,
  files: readonly string[],
): Promise<readonly string[]> {
  // dpkg-shlibdeps reads a source package's control file.
  mkdirSync(join(scratch, 'debian'), { recursive: true });
  writeFileSync(join(scratch, 'debian/control'), 'Source: vesper\n\nPackage: vesper\nArchitecture: amd64\n');
  const { stdout } = await runCommand('dpkg-shlibdeps', ['-O', ...files.map((file) => stage.at(file))], {
    cwd: scratch,
    package: 'dpkg-dev',
  });
  const [, list = ''] = /^shlibs:Depends=(.*)$/m.exec(stdout) ?? [];
  return list.split(', ');
}

function split<T>(all: readonly T[], matches: (one: T) => boolean): readonly [readonly T[], readonly T[]] {
  return [all.filter(matches), all.filter((one) => !matches(one))];
}
