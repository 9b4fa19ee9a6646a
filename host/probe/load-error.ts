// SPDX-License-Identifier: Apache-2.0

/**
 * Why a load failed, in a sentence a person can act on. init_module gives one errno for several causes; what the host
 * knows of image and guest tells most of them apart, and where it does not, the sentence names what is left.
 * Source: kernel/module/main.c and params.c of 6.1 and 6.12; results measured on both.
 */

import { loadStages } from '../wire/message.ts';
import { checkImage } from './check.ts';
import { isGplCompatible, listed, mismatchedSymbols, missingSymbols } from './check-symbols.ts';
import { type ProbeImage, probeName } from './declaration.ts';
import { errnoName, errnoText } from './errno.ts';
import { type FindingCode, type GuestKernel, rebuild } from './finding.ts';

/** What else is known of the push. */
export interface LoadDetails {
  /** The points, with the name of the errno of each that did not arm. */
  readonly points?: readonly { readonly name: string; readonly error: string }[];
  /** The argument string. */
  readonly args?: string;
}

interface FailedLoad extends LoadDetails {
  readonly error: number;
}

/**
 * One or two sentences. `error` is the negative errno; `stage` one of loadStages, or 0 where the frontend did not take the
 * image at all.
 */
export function explainLoadError(
  error: number,
  stage: number,
  image: ProbeImage,
  guest: GuestKernel,
  details: LoadDetails = {},
): string {
  const load = { ...details, error };
  const who = `Probe ${probeName(image)} was not loaded into guest ${guest.name}:`;
  switch (stage) {
    case 0:
      return `${who} ${notTaken(load, image, guest)}`;
    case loadStages.TRANSFER.value:
      if (errnoName(error) === 'EBUSY') return `${who} ${notTaken(load, image, guest)}`;
      return `${who} its image did not arrive whole, ${errnoText(error)}; attach it again.`;
    default:
      return `${who} ${notInitialised(load, image, guest)}`;
  }
}

function notTaken(load: FailedLoad, image: ProbeImage, guest: GuestKernel): string {
  switch (errnoName(load.error)) {
    case 'EBUSY':
      return 'the frontend is busy with another push or its slot is taken; attach it again.';
    case 'EFBIG':
      return `its image of ${image.bytes.length} bytes is larger than the ${guest.imageMax} the frontend takes; remove debug information with strip -g.`;
    case 'E2BIG':
      return `its parameters of ${load.args?.length ?? 0} bytes are longer than the frontend takes.`;
    case 'EOPNOTSUPP':
      return `the frontend does not load ${image.kind} images; upgrade vesper.ko in the guest.`;
    case 'ENOMEM':
      return 'the frontend has no memory for its image; free some in the guest.';
    default:
      return `the frontend refused it, ${errnoText(load.error)}.`;
  }
}

function notInitialised(load: FailedLoad, image: ProbeImage, guest: GuestKernel): string {
  const point = failedPoint(load, image);
  if (point !== undefined) return point;
  // Points are told only by a probe that got as far as registering itself.
  if ((load.points ?? []).length > 0) return initFailed(load, image);
  const name = errnoName(load.error);
  switch (name) {
    case 'ENOEXEC':
      return notExecutable(image, guest);
    case 'EINVAL':
      return invalid(load, image, guest);
    case 'ENOENT':
      return notFound(image, guest);
    case 'EPERM':
      return notPermitted(image, guest);
    case 'EEXIST':
      return `a module ${image.name} is loaded already; detach it, or run "rmmod ${image.name}" in the guest.`;
    case 'EBUSY':
      return `a module ${image.name} is being loaded or unloaded there right now (EBUSY); attach it again.`;
    case 'EKEYREJECTED':
    case 'ENOKEY':
    case 'EBADMSG':
    case 'ENOPKG': {
      const signature = image.signed
        ? 'the kernel does not accept its signature'
        : 'the kernel loads signed modules only';
      return `${signature} (${name}); sign it with a key the guest's kernel trusts.`;
    }
    case 'ENOMEM':
      return 'the guest has no memory for it (ENOMEM); free some, or attach it again once the guest recovered.';
    case 'ENOSPC':
      return withArgs(load)
        ? `a value in its parameters "${load.args}" is too long (ENOSPC); shorten it.`
        : initFailed(load, image);
    case 'ERANGE':
      return withArgs(load)
        ? `a number in its parameters "${load.args}" is out of range (ERANGE).`
        : initFailed(load, image);
    case 'ETIMEDOUT':
      return 'its init function did not end in time (ETIMEDOUT); see the kernel log of the guest.';
    case 'EINTR':
      return 'loading was interrupted (EINTR); attach it again.';
    default:
      return initFailed(load, image);
  }
}

/** A required probe point that did not arm fails the init function with its own errno. */
function failedPoint({ error, points = [] }: FailedLoad, image: ProbeImage): string | undefined {
  const required = new Set(
    image.declaration?.points.filter((point) => point.required).map(({ name }) => name),
  );
  const failed = points.find((point) => required.has(point.name) && point.error === errnoName(error));
  if (failed === undefined) return undefined;
  const why: Readonly<Record<string, string>> = {
    ENOENT: "the guest's kernel has no such function",
    EINVAL: 'it cannot be probed in this kernel',
    EOPNOTSUPP:
      'the guest has kernel.ftrace_enabled=0 (run "sysctl kernel.ftrace_enabled=1" in it), or its kernel lacks this kind of probe',
  };
  return `its required probe point ${failed.name} cannot be armed: ${why[failed.error] ?? 'the kernel refused'} (${failed.error}).`;
}

/** The first thing the check says about one of these, as the cause. */
function fromCheck(image: ProbeImage, guest: GuestKernel, codes: readonly FindingCode[]): string | undefined {
  const finding = checkImage(image, guest).find(
    ({ severity, code }) => severity === 'error' && codes.includes(code),
  );
  return finding === undefined ? undefined : finding.sentence;
}

function notExecutable(image: ProbeImage, guest: GuestKernel): string {
  const known = fromCheck(image, guest, ['ARCHITECTURE', 'VERMAGIC', 'RELEASE', 'SYMBOL_VERSION']);
  if (known !== undefined) return `its kernel does not take the file as a module (ENOEXEC). ${known}`;
  const [builtFor = 'no kernel'] = image.vermagic.split(' ');
  return builtFor === guest.kernelRelease
    ? `its kernel does not take the file as a module (ENOEXEC): it is damaged or cut off, or was built against another build of kernel ${builtFor}; ${rebuild(image, guest)}.`
    : `it is built for kernel ${builtFor}, the guest runs another build, ${guest.kernelRelease} (ENOEXEC); ${rebuild(image, guest)}.`;
}

/** -EINVAL: the version of a symbol, a parameter, or the init function. */
function invalid(load: FailedLoad, image: ProbeImage, guest: GuestKernel): string {
  const known = fromCheck(image, guest, ['SYMBOL_VERSION', 'NAMESPACE']);
  if (known !== undefined) return `its symbol versions do not fit (EINVAL). ${known}`;
  const builtFor = image.vermagic.split(' ')[0] ?? '';
  const same = builtFor === guest.kernelRelease;
  const versions = `it is built against other symbol versions (for kernel ${builtFor}, the guest runs ${guest.kernelRelease}); ${rebuild(image, guest)}`;
  const parameters = `the probe does not take its parameters "${load.args}"; "vesper probes ${probeName(image)}" lists what it takes`;
  if (mismatchesRuledOut(image, guest) || same) {
    // Vermagic tells the release, not the build: a rebuilt kernel of the same release may differ in its versions.
    const doubt = mismatchesRuledOut(image, guest)
      ? ''
      : ` If the guest's kernel is a build of its own, ${rebuild(image, guest)}.`;
    return withArgs(load) ? `${parameters} (EINVAL).${doubt}` : `${initFailed(load, image)}${doubt}`;
  }
  return withArgs(load) ? `either ${versions}; or ${parameters} (EINVAL).` : `${versions} (EINVAL).`;
}

/** The symbols of the guest's kernel are known, and those of the image agree with them. */
const mismatchesRuledOut = (image: ProbeImage, guest: GuestKernel): boolean =>
  guest.symbols !== undefined && mismatchedSymbols(image, guest).length === 0;

function notFound(image: ProbeImage, guest: GuestKernel): string {
  const missing = missingSymbols(image, guest);
  if (missing.length > 0) {
    return `kernel ${guest.kernelRelease} does not export ${listed(missing)} (ENOENT); ${rebuild(image, guest)}, or change its source for that kernel.`;
  }
  if (!isGplCompatible(image.license)) {
    return `its licence "${image.license}" keeps symbols that are exported for the GPL only from it (ENOENT); set MODULE_LICENSE("GPL") if you may.`;
  }
  const others = image.depends.filter((name) => name !== 'vesper');
  if (others.length > 0)
    return `a symbol is missing (ENOENT); it needs ${listed(others)} to be loaded in the guest first.`;
  if (guest.symbols !== undefined) return initFailed({ error: -2 }, image);
  const names = image.symbols
    .filter(({ name, weak }) => !weak && name !== 'module_layout')
    .map(({ name }) => name);
  return `its kernel ${guest.kernelRelease} does not export a symbol it needs (ENOENT): one of ${listed(names)}, which the kernel log of the guest names; ${rebuild(image, guest)}, or change its source for that kernel.`;
}

function notPermitted(image: ProbeImage, guest: GuestKernel): string {
  const known = fromCheck(image, guest, ['MODULES_DISABLED', 'SIGNATURE']);
  if (known !== undefined) return `its kernel does not permit it (EPERM). ${known}`;
  const lockdown =
    'the guest is locked down and loads signed modules only (sign it with a key its kernel trusts)';
  const disabled = 'it has module loading disabled (kernel.modules_disabled=1, until its next reboot)';
  if (image.signed || guest.lockdown === 'none')
    return `${disabled.replace('it has', 'the guest has')} (EPERM).`;
  return `its kernel does not permit it (EPERM): either ${lockdown}, or ${disabled}.`;
}

function initFailed({ error, points = [] }: FailedLoad, image: ProbeImage): string {
  const failed = `its init function failed, ${errnoText(error)}; see the kernel log of the guest.`;
  // An init function may insist on points that are declared as optional.
  const unarmed = points.filter((point) => point.error === errnoName(error)).map(({ name }) => name);
  if (unarmed.length > 0) return `${failed} With that error it could not arm ${listed(unarmed)}.`;
  const required = image.declaration?.points.filter((point) => point.required).map(({ name }) => name) ?? [];
  return required.length > 0 ? `${failed} Its required probe points are ${listed(required)}.` : failed;
}

const withArgs = ({ args = '' }: FailedLoad): boolean => args !== '';
