// SPDX-License-Identifier: Apache-2.0

/** What a guest is like, as far as it matters for the frontend: one script that only looks, and its answers. */

import { createHash } from 'node:crypto';
import { VesperError } from '../error.ts';
import { type DkmsTree, dkmsSourceRoot, type InstalledFile } from './dkms-tree.ts';
import type { RootShell } from './root-shell.ts';

export interface DkmsEntry {
  readonly version: string;
  /** Undefined: added, and built for no kernel. */
  readonly kernel: string | undefined;
  readonly state: string;
}

/** A module as loaded or installed; empty texts: it is not. */
export interface ModuleIdentity {
  readonly version: string;
  /** modinfo's srcversion, a hash of the sources. */
  readonly sources: string;
}

export interface GuestFacts {
  /** ID and ID_LIKE of os-release(5). */
  readonly distributions: readonly string[];
  readonly distribution: string;
  /** uname -r and -m. */
  readonly kernel: string;
  readonly architecture: string;
  /** Without dashes, as frontends say it. */
  readonly bootId: string;
  /** The machine's UUID as its firmware says; empty: unknown. */
  readonly uuid: string;
  readonly hasHeaders: boolean;
  readonly hasApt: boolean;
  /** Packages of headers that apt knows to be installed. */
  readonly headerPackages: readonly string[];
  /** `dkms`, `cc`, `make`, `modprobe`, `tar`, … that are not there. */
  readonly missingPrograms: readonly string[];
  /** `none`, `integrity`, `confidentiality`; empty: the kernel has no lockdown. */
  readonly lockdown: string;
  readonly secureBoot: boolean;
  /** The kernel loads signed modules only. */
  readonly signaturesForced: boolean;
  /** The machine's own key for modules is among those that the firmware trusts. */
  readonly keyEnrolled: boolean;
  readonly modulesDisabled: boolean;
  /** KiB free where sources and modules go, the least of them. */
  readonly freeKib: number;
  readonly dkms: readonly DkmsEntry[];
  /** The Debian package that sources of any version came in; empty: none. */
  readonly sourcePackage: string;
  /** The sources there are those of this program. */
  readonly sourcesMatch: boolean;
  /** Folders of sources, also those DKMS does not know. */
  readonly sourceFolders: readonly string[];
  /** Folders with a module that a host built. */
  readonly earlyFolders: readonly string[];
  /** Loaded when the guest boots, and whether by the file that we write. */
  readonly loadsAtBoot: boolean;
  readonly hasBootFile: boolean;
  readonly installed: ModuleIdentity;
  readonly loaded: ModuleIdentity;
  /** Modules that hold the loaded one: probes. */
  readonly holders: readonly string[];
}

/** Looks. Throws `PROTOCOL` where the guest answers nonsense. */
export async function guestFacts(shell: RootShell, tree: DkmsTree, where: string): Promise<GuestFacts> {
  const { stdout, stderr } = await shell.look(script(tree));
  const said = new Map<string, string[]>();
  for (const line of stdout.split('\n')) {
    const at = line.indexOf('=');
    if (at < 1) continue;
    const name = line.slice(0, at);
    said.set(name, [...(said.get(name) ?? []), line.slice(at + 1).trim()]);
  }
  if (!said.has('end')) {
    throw new VesperError(
      'PROTOCOL',
      `${where} cannot be looked at: its shell says ${JSON.stringify((stderr || stdout).slice(0, 300))}`,
    );
  }
  const all = (name: string): readonly string[] => (said.get(name) ?? []).filter((value) => value !== '');
  const one = (name: string): string => all(name)[0] ?? '';
  const words = (name: string): readonly string[] => one(name).split(/\s+/).filter(Boolean);
  return {
    distributions: [...words('id'), ...words('id_like')],
    distribution: one('pretty') || one('id') || 'an unknown distribution',
    kernel: kernelName(one('kernel'), where),
    architecture: one('arch'),
    bootId: one('boot_id').replaceAll('-', ''),
    uuid: one('uuid').toLowerCase(),
    hasHeaders: one('headers') === 'yes',
    hasApt: one('apt') === 'yes',
    headerPackages: all('headers_package'),
    missingPrograms: all('lacks'),
    lockdown: /\[(\w+)\]/.exec(one('lockdown'))?.[1] ?? '',
    secureBoot: one('secure_boot') === '1',
    signaturesForced: one('sig_enforce') === 'Y',
    keyEnrolled: one('key') === 'enrolled',
    modulesDisabled: one('modules_disabled') === '1',
    freeKib: Math.min(...all('free').map(Number).filter(Number.isFinite), Number.MAX_SAFE_INTEGER),
    dkms: all('dkms').flatMap(dkmsEntry),
    sourcePackage: one('package'),
    sourcesMatch: one('sources') === 'same',
    sourceFolders: all('folder').filter((folder) => sourceFolder.test(folder)),
    earlyFolders: all('early').filter((folder) => early.test(folder)),
    loadsAtBoot: one('boot') === 'yes',
    hasBootFile: one('boot_file') === 'yes',
    installed: { version: one('installed_version'), sources: one('installed_sources') },
    loaded: { version: one('loaded_version'), sources: one('loaded_sources') },
    holders: all('holder'),
  };
}

/** Names that we put into commands: nothing that a shell takes for more than a word. */
const kernelPattern = /^[\w.+~-]{1,100}$/;
const versionPattern = /^[\w.+~:-]{1,60}$/;
const early = /^\/lib\/modules\/[\w.+~-]{1,100}\/updates\/vesper$/;
const sourceFolder = /^\/usr\/src\/vesper-[\w.+~:-]{1,60}$/;

function kernelName(text: string, where: string): string {
  if (kernelPattern.test(text)) return text;
  throw new VesperError('PROTOCOL', `${where} names its kernel ${JSON.stringify(text.slice(0, 100))}`);
}

/** `vesper/0.1.0, 6.1.0-9-amd64, x86_64: installed`; before DKMS 3 `vesper, 0.1.0, 6.1.0-9-amd64, x86_64: installed`. */
function dkmsEntry(line: string): readonly DkmsEntry[] {
  const match = /^vesper(?:\/|, )([^,:\s]+)(?:, ([^,:\s]+), [^,:\s]+)?: (\w+)/.exec(line);
  const [, version = '', kernel, state = ''] = match ?? [];
  if (!versionPattern.test(version) || (kernel !== undefined && !kernelPattern.test(kernel))) return [];
  return [{ version, kernel, state }];
}

/** Of the digests of all files, a line each, as sha256sum makes it. */
function digest(files: readonly InstalledFile[]): string {
  const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');
  return sha256(files.map(({ content }) => `${sha256(content)}\n`).join(''));
}

/** Answers are lines NAME=VALUE; what is not there is left out. It has to do with any POSIX shell and busybox. */
function script({ name, sources, boot }: DkmsTree): string {
  const paths = sources.map(({ path }) => path);
  return `export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin:/usr/bin:/bin"
say() { printf '%s=%s\\n' "$1" "$2"; }
first() { head -n 1 "$1" 2>/dev/null; }
kernel=$(uname -r)
say kernel "$kernel"
say arch "$(uname -m)"
say boot_id "$(first /proc/sys/kernel/random/boot_id)"
say uuid "$(first /sys/class/dmi/id/product_uuid)"
[ -r /etc/os-release ] && ( . /etc/os-release; say id "$ID"; say id_like "$ID_LIKE"; say pretty "$PRETTY_NAME" )
[ -e "/lib/modules/$kernel/build/Makefile" ] && say headers yes
command -v apt-get >/dev/null && say apt yes
command -v dpkg-query >/dev/null && dpkg-query -W -f '\${db:Status-Abbrev}\${Package}\\n' 'linux-headers-*' 2>/dev/null |
	sed -n 's/^ii *//p' | while IFS= read -r line; do say headers_package "$line"; done
for program in dkms make modprobe tar flock timeout; do command -v $program >/dev/null || say lacks $program; done
command -v gcc >/dev/null || command -v cc >/dev/null || say lacks gcc
say lockdown "$(first /sys/kernel/security/lockdown)"
say sig_enforce "$(first /sys/module/module/parameters/sig_enforce)"
say modules_disabled "$(first /proc/sys/kernel/modules_disabled)"
for file in /sys/firmware/efi/efivars/SecureBoot-*; do
	[ -r "$file" ] && say secure_boot "$(od -An -t u1 -j 4 -N 1 "$file" | tr -d ' ')"
done
for key in /var/lib/shim-signed/mok/MOK.der /var/lib/dkms/mok.pub; do
	[ -r $key ] && mokutil --test-key $key 2>/dev/null | grep -q 'already enrolled' && say key enrolled
done
for folder in ${dkmsSourceRoot} /var/lib /lib/modules /tmp; do
	say free "$(df -Pk $folder 2>/dev/null | awk 'NR == 2 { print $4 }')"
done
command -v dkms >/dev/null && dkms status -m ${name} 2>/dev/null | while IFS= read -r line; do say dkms "$line"; done
for folder in ${dkmsSourceRoot}/${name}-*; do
	[ -d "$folder" ] || continue
	say folder "$folder"
	say package "$(dpkg-query -S "$folder/dkms.conf" 2>/dev/null | cut -d: -f1)"
done
if command -v sha256sum >/dev/null && [ "$(sha256sum ${paths.join(' ')} 2>/dev/null | cut -d' ' -f1 | sha256sum | cut -d' ' -f1)" = ${digest(sources)} ]; then
	say sources same
fi
for folder in /lib/modules/*/updates/${name}; do [ -d "$folder" ] && say early "$folder"; done
for file in ${boot.path} /usr/lib/modules-load.d/${name}.conf; do
	[ "$(cat $file 2>/dev/null)" = ${name} ] && say boot yes
done
[ -e ${boot.path} ] && say boot_file yes
say installed_version "$(modinfo -k "$kernel" -F version ${name} 2>/dev/null)"
say installed_sources "$(modinfo -k "$kernel" -F srcversion ${name} 2>/dev/null)"
if [ -d /sys/module/${name} ]; then
	say loaded_version "$(first /sys/module/${name}/version)"
	say loaded_sources "$(first /sys/module/${name}/srcversion)"
	for holder in /sys/module/${name}/holders/*; do [ -e "$holder" ] && say holder "\${holder##*/}"; done
fi
say end yes`;
}
