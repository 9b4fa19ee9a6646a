// SPDX-License-Identifier: Apache-2.0

/** Whether the frontend can be built and loaded in a guest, and what somebody has to do where it cannot. */

import type { GuestFacts } from './guest-facts.ts';

/** What is wrong, and what to type. */
export type Problem = string;

/** Sources, objects and module; and what a compiler and headers take where they have to come first. */
const buildKib = 64 << 10;
const packagesKib = 600 << 10;
/** The oldest kernel the frontend is for. */
const oldest = { major: 5, minor: 19 };

/** Why it cannot be done at all; empty: it can. */
export function obstacles(facts: GuestFacts): readonly Problem[] {
  const found: Problem[] = [];
  if (facts.architecture !== 'x86_64')
    found.push(`the frontend is for x86-64, and this guest is ${facts.architecture}`);
  const [, major = 0, minor = 0] = (/^(\d+)\.(\d+)/.exec(facts.kernel) ?? []).map(Number);
  if (major < oldest.major || (major === oldest.major && minor < oldest.minor)) {
    found.push(
      `the guest runs kernel ${facts.kernel}; the frontend needs ${oldest.major}.${oldest.minor} or later: install a newer kernel, reboot into it, and run this again`,
    );
  }
  if (facts.modulesDisabled) {
    found.push(
      'kernel.modules_disabled is 1 in the guest: nothing can be loaded before its next boot. Take it out of /etc/sysctl.conf or /etc/sysctl.d, reboot, and run this again',
    );
  }
  if (facts.lockdown === 'confidentiality') {
    found.push(
      'the guest is locked down for confidentiality, which forbids kprobes: boot it with lockdown=integrity, or without',
    );
  }
  if (!facts.hasApt) {
    const lacks = missingPackages(facts);
    if (lacks.length > 0) found.push(`${lacks.join(', ')} are missing in the guest. ${byHand(facts)}`);
  }
  const needKib = buildKib + (missingPackages(facts).length > 0 ? packagesKib : 0);
  if (facts.freeKib < needKib) {
    found.push(
      `the guest has ${facts.freeKib >> 10} MiB free where ${needKib >> 10} are needed (/usr/src, /var/lib, /lib/modules, /tmp): make room, apt-get clean`,
    );
  }
  return found;
}

/** Debian packages that are missing; what other distributions call them is for `byHand`. */
export function missingPackages(facts: GuestFacts): readonly string[] {
  const packages: Readonly<Record<string, string>> = {
    modprobe: 'kmod',
    flock: 'util-linux',
    timeout: 'coreutils',
  };
  return [
    ...facts.missingPrograms.map((program) => packages[program] ?? program),
    ...(facts.hasHeaders ? [] : [`linux-headers-${facts.kernel}`]),
  ];
}

/**
 * The package that brings the headers of every later kernel, without which DKMS cannot follow a kernel update; undefined
 * where the name of the kernel does not say which.
 */
export function headersPackage(facts: GuestFacts): string | undefined {
  // Debian's releases end in -amd64 with a flavour before it, Ubuntu's in the flavour.
  const [, flavour] =
    /^[\d.]+(?:\+\w+)*(?:-\d+)?(?:\+\w+)*-((?:[a-z][a-z0-9]*-)*[a-z][a-z0-9]*)$/.exec(facts.kernel) ?? [];
  return flavour === undefined ? undefined : `linux-headers-${flavour}`;
}

/** Why DKMS will not be able to follow a kernel update, and what to type; undefined: it will, as far as can be seen. */
export function updateProblem(facts: GuestFacts): Problem | undefined {
  const name = headersPackage(facts);
  // Without the headers of the running one all of it is installed.
  if (!facts.hasApt || name === undefined || !facts.hasHeaders || facts.headerPackages.includes(name))
    return undefined;
  return `After a kernel update the frontend is built anew only where the headers of the new kernel come with it. In the guest: sudo apt-get install ${name}`;
}

/**
 * The kernel takes signed modules only, and not yet what DKMS signs. The reason, and what to type; undefined: it will load.
 */
export function signatureProblem(facts: GuestFacts): Problem | undefined {
  if (facts.keyEnrolled) return undefined;
  const why = facts.signaturesForced
    ? 'the guest loads signed modules only (module.sig_enforce)'
    : facts.lockdown === 'integrity'
      ? `the guest is locked down${facts.secureBoot ? ' by Secure Boot' : ''} and loads signed modules only`
      : undefined;
  if (why === undefined) return undefined;
  return `${why}, and does not know the key that DKMS signs with. In the guest:
  sudo apt-get install mokutil openssl
  sudo mokutil --import ${facts.distributions.includes('ubuntu') ? '/var/lib/shim-signed/mok/MOK.der' : '/var/lib/dkms/mok.pub'}     # asks for a password of your own
  sudo reboot      # and on the console: Enroll MOK, Continue, that password
then run this again. The probes that are attached later have to be signed with that key as well.`;
}

function byHand(facts: GuestFacts): string {
  const is = (...names: readonly string[]): boolean =>
    facts.distributions.some((name) => names.includes(name));
  const again = 'and run this again';
  if (is('rhel', 'centos', 'fedora')) {
    const epel = is('rhel', 'centos') ? 'sudo dnf install -y epel-release && ' : '';
    return `Install them, ${again}:
  ${epel}sudo dnf install -y dkms gcc make elfutils-libelf-devel kernel-devel-${facts.kernel}`;
  }
  if (is('suse', 'opensuse', 'opensuse-leap', 'opensuse-tumbleweed')) {
    return `Install them, ${again}:
  sudo zypper install -y dkms gcc make kernel-default-devel`;
  }
  if (is('arch')) return `Install them, ${again}:\n  sudo pacman -S --needed dkms gcc make linux-headers`;
  return `Install dkms, gcc, make and the headers of kernel ${facts.kernel} with the package manager of ${facts.distribution}, ${again}`;
}
