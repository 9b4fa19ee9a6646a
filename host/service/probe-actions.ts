// SPDX-License-Identifier: Apache-2.0

/** Attach and detach of one probe on one guest with an active session: check, push, self-test, record, audit. */

import { performance } from 'node:perf_hooks';
import { VesperError } from '../error.ts';
import type { LoadedProbe, PointState } from '../guest/probe-state.ts';
import type { GuestSession } from '../guest/session.ts';
import { checkImage } from '../probe/check.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import { errnoName } from '../probe/errno.ts';
import type { GuestKernel } from '../probe/finding.ts';
import { explainLoadError } from '../probe/load-error.ts';
import { argumentString } from '../probe/parameters.ts';
import { limits } from '../wire/message.ts';
import type { AuditLog } from './audit.ts';
import type { GuestServices } from './guest-services.ts';
import type { ProbeImages } from './images.ts';
import type { ProbeResult } from './results.ts';
import type { WantedProbe } from './wanted.ts';

export interface AttachRequest {
  readonly guest: { readonly name: string; readonly uuid: string };
  readonly session: GuestSession;
  readonly image: ProbeImage;
  readonly wanted: WantedProbe;
  /** Who asked, for the audit log. */
  readonly by: string;
  readonly selfTest: boolean;
  /** Push although the check says that it will not load. */
  readonly force: boolean;
  /** Called when nothing speaks against the push any more, just before it. */
  readonly accepted: () => Promise<void>;
  readonly services: GuestServices;
}

/** What the checks need to know of a guest. */
export async function kernelOf(
  { hello, incarnation }: GuestSession,
  images: ProbeImages,
): Promise<GuestKernel> {
  return {
    name: incarnation.guest,
    kernelRelease: hello.kernel_release,
    vermagic: hello.vermagic,
    machine: hello.machine,
    imageMax: hello.image_max,
    symbols: await images.symbolsOf(hello.kernel_release),
  };
}

/**
 * Loads and arms an image. A refusal, by the check here or by the guest's kernel, is a result with `ok` false; throws where the
 * session fails in the middle, or USAGE for bad parameters.
 */
export async function attachProbe(request: AttachRequest): Promise<ProbeResult> {
  const { guest, session, image, wanted, by, services } = request;
  const startedMs = performance.now();
  const args = argumentString(image, wanted.parameters);
  const entry = {
    action: 'load',
    guest: guest.name,
    uuid: guest.uuid,
    probe: image.name,
    sha256: image.sha256,
    args,
    by,
  } as const;
  const refuse = (
    message: string,
    warnings: readonly string[],
    errno = '',
    points: readonly PointState[] = [],
  ): ProbeResult => {
    services.audit.append({ ...entry, result: errno === '' ? 'refused' : errno });
    return {
      probe: image.name,
      ok: false,
      message,
      warnings,
      armed_points: 0,
      points,
      took_ms: performance.now() - startedMs,
      load_ms: 0,
      errno,
    };
  };

  const present = session.probes.find(image.name);
  if (present !== undefined && present.sha256 === image.sha256 && present.args === args) {
    return already(present, performance.now() - startedMs);
  }
  if (present !== undefined) {
    return refuse(
      `${image.name} is attached to ${guest.name} already, ${present.sha256 === image.sha256 ? 'with other parameters' : 'from another image'}: detach it first (vesper detach ${guest.name} ${image.name})`,
      [],
      'EEXIST',
    );
  }
  const kernel = await kernelOf(session, services.images);
  const findings = checkImage(image, kernel);
  const warnings = findings.filter(({ severity }) => severity === 'warning').map(({ sentence }) => sentence);
  const [failed] = findings.filter(({ severity }) => severity === 'error');
  if (failed !== undefined && !request.force) return refuse(failed.sentence, warnings);

  if (session.probes.freeSlot() === undefined)
    return refuse(
      `All ${limits.SLOTS.value} probe slots of guest ${guest.name} are taken: detach a probe first (vesper detach ${guest.name} PROBE).`,
      warnings,
    );
  services.images.keep(image);
  await request.accepted();
  const result = await session.push(image, args).catch((thrown: unknown) => {
    // Whether it was loaded is not known; that it was tried has to be.
    services.audit.append({ ...entry, result: thrown instanceof VesperError ? thrown.code : 'FAILED' });
    throw thrown;
  });
  if (result.error !== 0) {
    return refuse(
      explainLoadError(result.error, result.stage, image, kernel, { points: result.points, args }),
      warnings,
      errnoName(result.error),
      result.points,
    );
  }
  const silent = request.selfTest && result.registered ? await silentPoints(session, image.name) : [];
  const unarmed = result.points
    .filter(({ armed }) => !armed)
    .map(({ name, error }) => `probe point ${name} did not arm: ${error}`);
  services.audit.append({ ...entry, result: 'loaded' });
  return {
    probe: image.name,
    ok: true,
    message: result.registered
      ? `${image.name} is armed: ${result.armedPoints} of ${result.points.length} probe points`
      : `${image.name} is loaded; it registered no probe, so it has no events`,
    warnings: [...warnings, ...unarmed, ...silent],
    armed_points: result.armedPoints,
    points: result.points,
    took_ms: performance.now() - startedMs,
    load_ms: Number(result.loadNs) / 1e6,
    errno: '',
  };
}

const already = (probe: LoadedProbe, tookMs: number): ProbeResult => ({
  probe: probe.name,
  ok: true,
  message: `${probe.name} was attached already`,
  warnings: [],
  armed_points: probe.armedPoints,
  points: probe.points,
  took_ms: tookMs,
  load_ms: 0,
  errno: '',
});

/** A kernel with kernel.ftrace_enabled=0 arms a probe with success and never runs its handler: only a test can tell. */
async function silentPoints(session: GuestSession, name: string): Promise<readonly string[]> {
  const probe = session.probes.find(name);
  if (probe === undefined) return [];
  const { error } = await session.selfTest(probe);
  if (error === '' || error === 'ENOTSUP' || error === 'EOPNOTSUPP') return [];
  return [
    `${name} is armed but its self-test failed (${error}): its handlers do not run; look at kernel.ftrace_enabled and kprobes in the guest`,
  ];
}

export interface DetachRequest {
  readonly guest: { readonly name: string; readonly uuid: string };
  readonly session: GuestSession | undefined;
  readonly name: string;
  readonly by: string;
  readonly services: GuestServices;
}

export async function detachProbe({
  guest,
  session,
  name,
  by,
  services,
}: DetachRequest): Promise<ProbeResult> {
  const startedMs = performance.now();
  const wasWanted = services.wanted.remove(guest, name);
  await services.wanted.saved();
  const configured = services.wanted.configured(guest, name)?.configured;
  const loaded = session?.probes.find(name);
  const until =
    configured === undefined
      ? ''
      : `. It stays detached, although ${configured} asks for it, until it is attached again (vesper attach ${guest.name} ${name}) or nothing asks for it any more`;
  const answer = (ok: boolean, message: string, errno = ''): ProbeResult => ({
    probe: name,
    ok,
    message: `${message}${until}`,
    warnings: [],
    armed_points: 0,
    points: [],
    took_ms: performance.now() - startedMs,
    load_ms: 0,
    errno,
  });
  if (session === undefined || loaded === undefined) {
    if (!wasWanted) return answer(false, `${name} is not attached to ${guest.name}`, 'ENOENT');
    const { name: of, uuid } = guest;
    const entry = { action: 'unload', guest: of, uuid, probe: name, sha256: '', args: '', by } as const;
    services.audit.append({ ...entry, result: 'not loaded' });
    return answer(
      true,
      `${name} is no longer wanted on ${of}; it was not loaded${session === undefined ? ', or is unloaded when the guest comes back' : ''}`,
    );
  }
  const { error, message } = await unloadProbe({ guest, session, loaded, by, audit: services.audit });
  return answer(error === '', message, error);
}

export interface UnloadRequest {
  readonly guest: { readonly name: string; readonly uuid: string };
  readonly session: GuestSession;
  readonly loaded: LoadedProbe;
  readonly by: string;
  readonly audit: AuditLog;
}

/** Disarms and unloads, and says so in the audit log. `error` is the errno's name of the guest's kernel, or empty. */
export async function unloadProbe({
  guest,
  session,
  loaded,
  by,
  audit,
}: UnloadRequest): Promise<{ readonly error: string; readonly message: string }> {
  const { name } = loaded;
  const { error: errno, written, lost } = await session.unload(loaded);
  const error = errno === 0 ? '' : errnoName(errno);
  audit.append({
    action: 'unload',
    guest: guest.name,
    uuid: guest.uuid,
    probe: name,
    sha256: loaded.sha256,
    args: loaded.args ?? '',
    by,
    result: error === '' ? 'unloaded' : error,
  });
  const message =
    error === ''
      ? `${name} is unloaded: it wrote ${written} records and lost ${lost}`
      : `${name} is disarmed, but the guest's kernel did not unload it: ${error}`;
  return { error, message };
}
