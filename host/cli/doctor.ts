// SPDX-License-Identifier: Apache-2.0

/** `vesper doctor`: what is missing on this host, and the command that mends it. */

import { accessSync, constants, existsSync, statfsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { Command } from 'commander';
import { ApiClient } from '../api/client.ts';
import { messageOf } from '../error.ts';
import { mendProgram, systemCache } from '../installed.ts';
import { Catalogue } from '../probe/catalogue.ts';
import { loadLibvirtAddon } from '../provider/libvirt/addon.ts';
import { defaultRegionBytes } from '../relay/layout.ts';
import { loadRelayAddon } from '../relay/native.ts';
import { apiSocketPath, defaultRunDirectory, defaultStateDirectory } from '../service/config.ts';
import { builtCatalogueRoots } from './catalogue-roots.ts';
import { example } from './context.ts';
import { Terminal } from './terminal.ts';

/** Of the guests that it counts room for. */
const usualCpus = 4;

interface Finding {
  readonly what: string;
  /** `missing`: VESPER cannot work; `absent`: something it can do is not to be had. */
  readonly state: 'ok' | 'absent' | 'missing';
  readonly detail: string;
  /** Command that mends it, empty where nothing has to be. */
  readonly mend: string;
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('What is missing on this host, and the command that mends it.')
    .option('--json', 'print the findings as JSON')
    .addHelpText('after', example('vesper doctor'))
    .action(async (options: { readonly json?: boolean }, command: Command) => {
      const { runDir } = command.optsWithGlobals<{ runDir?: string }>();
      const findings = await examine(runDir ?? defaultRunDirectory());
      const terminal = new Terminal();
      if (options.json === true) terminal.json(findings);
      else printFindings(terminal, findings);
      if (findings.some(({ state }) => state === 'missing')) process.exitCode = 1;
    });
}

async function examine(runDirectory: string): Promise<readonly Finding[]> {
  return [
    node(),
    addon(),
    program('qemu-system-x86_64', 'virtual machines', 'apt-get install qemu-system-x86', 'missing'),
    kvm(),
    libvirt(),
    sharedMemory(),
    ...ownDirectories(runDirectory),
    await catalogue(),
    program('gcc', 'building of probes', 'apt-get install build-essential', 'absent'),
    program('busybox', 'guest of the demo', 'apt-get install busybox-static', 'absent'),
    await service(runDirectory),
  ];
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const enough = major > 22 || (major === 22 && minor >= 15);
  return {
    what: 'Node.js',
    state: enough ? 'ok' : 'missing',
    detail: `${process.versions.node}, 22.15 or later is needed`,
    mend: enough ? '' : `${mendProgram} (brings Node 24), then use its vesper`,
  };
}

function addon(): Finding {
  try {
    loadRelayAddon();
    return { what: 'relay reader', state: 'ok', detail: 'the native addon loads', mend: '' };
  } catch (thrown) {
    return { what: 'relay reader', state: 'missing', detail: messageOf(thrown), mend: mendProgram };
  }
}

function program(name: string, what: string, mend: string, otherwise: 'absent' | 'missing'): Finding {
  const found = (process.env['PATH'] ?? '')
    .split(delimiter)
    .map((directory) => join(directory, name))
    .find(existsSync);
  return found === undefined
    ? { what, state: otherwise, detail: `there is no ${name}`, mend }
    : { what, state: 'ok', detail: found, mend: '' };
}

function libvirt(): Finding {
  const what = 'libvirt';
  try {
    loadLibvirtAddon();
    return {
      what,
      state: 'ok',
      detail: `its library loads: ${systemCache === undefined ? 'vesper serve --libvirt' : 'providers.libvirt in /etc/vesper/vesper.yaml'}`,
      mend: '',
    };
  } catch (thrown) {
    const mend = `apt-get install libvirt0${systemCache === undefined ? '; make native' : ''}`;
    return { what, state: 'absent', detail: messageOf(thrown), mend };
  }
}

function kvm(): Finding {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return {
      what: 'KVM',
      state: 'ok',
      detail: '/dev/kvm can be opened; whether guests run under it only a boot shows',
      mend: '',
    };
  } catch {
    return {
      what: 'KVM',
      state: 'absent',
      detail: 'no usable /dev/kvm: guests run emulated (TCG), slower',
      mend: 'modprobe kvm_intel || modprobe kvm_amd',
    };
  }
}

function sharedMemory(): Finding {
  try {
    const { bavail, bsize } = statfsSync('/dev/shm');
    const guests = Math.floor((bavail * bsize) / defaultRegionBytes(usualCpus));
    return guests > 0
      ? {
          what: 'shared memory',
          state: 'ok',
          detail: `/dev/shm has room for the regions of ${guests} guests with ${usualCpus} CPUs`,
          mend: '',
        }
      : {
          what: 'shared memory',
          state: 'missing',
          detail: '/dev/shm is full',
          mend: 'mount -o remount,size=50% /dev/shm',
        };
  } catch (thrown) {
    return {
      what: 'shared memory',
      state: 'missing',
      detail: messageOf(thrown),
      mend: 'mount -t tmpfs tmpfs /dev/shm',
    };
  }
}

/** Those of a package are its service's alone: only root has to be able to write there. */
function ownDirectories(runDirectory: string): readonly Finding[] {
  if (systemCache !== undefined && process.getuid?.() !== 0) return [];
  return [writable('state directory', defaultStateDirectory()), writable('run directory', runDirectory)];
}

function writable(what: string, directory: string): Finding {
  for (let at = directory; ; at = join(at, '..')) {
    if (!existsSync(at)) continue;
    try {
      accessSync(at, constants.W_OK);
      return { what, state: 'ok', detail: directory, mend: '' };
    } catch {
      return {
        what,
        state: 'missing',
        detail: `${directory} cannot be written`,
        mend: `sudo install -d -o "$USER" ${directory}`,
      };
    }
  }
}

async function catalogue(): Promise<Finding> {
  const { probes, problems } = await new Catalogue(builtCatalogueRoots()).list();
  const broken = problems[0];
  if (broken !== undefined)
    return {
      what: 'probes',
      state: 'absent',
      detail: `${broken.path}: ${broken.problem}`,
      mend: mendProgram,
    };
  return probes.length > 0
    ? { what: 'probes', state: 'ok', detail: probes.map(({ name }) => name).join(', '), mend: '' }
    : { what: 'probes', state: 'missing', detail: 'the catalogue is empty', mend: mendProgram };
}

async function service(runDirectory: string): Promise<Finding> {
  try {
    const guests = await new ApiClient(apiSocketPath(runDirectory)).guests();
    return {
      what: 'service',
      state: 'ok',
      detail: `answers; ${guests.length} ${guests.length === 1 ? 'guest' : 'guests'}`,
      mend: '',
    };
  } catch (thrown) {
    return {
      what: 'service',
      state: 'absent',
      detail: messageOf(thrown),
      mend:
        systemCache === undefined ? 'vesper serve --qemu NAME=QMP-SOCKET' : 'systemctl enable --now vesper',
    };
  }
}

function printFindings(terminal: Terminal, findings: readonly Finding[]): void {
  const marks = {
    ok: terminal.style('green', '✓'),
    absent: terminal.style('yellow', '!'),
    missing: terminal.style('red', '✗'),
  };
  for (const { what, state, detail, mend } of findings) {
    terminal.line(`${marks[state]} ${what}`);
    terminal.paragraph(detail, 4);
    if (mend !== '' && state !== 'ok') terminal.line(`    ${terminal.style('bold', mend)}`);
  }
}
