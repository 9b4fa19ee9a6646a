// SPDX-License-Identifier: Apache-2.0

/** What the service of this host has to do with a guest that is installed into: it names it, reaches it, lets go of it. */

import { setTimeout as delay } from 'node:timers/promises';
import type { ApiClient } from '../api/client.ts';
import type { GuestView } from '../api/view.ts';
import { VesperError } from '../error.ts';
import type { GuestFacts } from './guest-facts.ts';

const proofTimeoutMs = 90_000;
const pollMs = 200;

export type Known =
  | { readonly kind: 'guest'; readonly view: GuestView }
  /** Why not, and what to type. */
  | { readonly kind: 'none'; readonly advice: string };

/** The guest as the service knows it. */
export async function knownGuest(api: ApiClient, guest: string): Promise<Known> {
  try {
    return { kind: 'guest', view: await api.guest(guest) };
  } catch (thrown) {
    if (!(thrown instanceof VesperError)) throw thrown;
    if (thrown.code === 'NOT_FOUND') {
      return {
        kind: 'none',
        advice: `the service knows no guest ${guest}: see which it does with "vesper guests"`,
      };
    }
    if (thrown.code === 'UNREACHABLE') return { kind: 'none', advice: thrown.message };
    throw thrown;
  }
}

/** Throws `REFUSED` where the guest that is logged in to is not the one that the service calls so. */
export function requireSameGuest(view: GuestView, facts: GuestFacts, where: string): void {
  if (facts.uuid === '' || view.uuid === '' || sameUuid(view.uuid.toLowerCase(), facts.uuid)) return;
  throw new VesperError(
    'REFUSED',
    `${where} is not the guest ${view.name}: its UUID is ${facts.uuid}, and that of ${view.name} is ${view.uuid}. "vesper guests --json" names the UUIDs`,
  );
}

/** Waits until the service talks with the frontend of this very boot; what it says of it. Throws `TIMEOUT`. */
export async function proveChannel(
  api: ApiClient,
  guest: string,
  facts: GuestFacts,
  version: string,
): Promise<GuestView> {
  const deadline = performance.now() + proofTimeoutMs;
  for (;;) {
    const view = await api.reach(guest);
    const talks = view.state === 'active' || view.state === 'reachable' || view.state === 'degraded';
    if (talks && view.frontend === version && view.boot_id === facts.bootId) return view;
    if (performance.now() > deadline) throw unproven(view, facts, version);
    await delay(pollMs);
  }
}

/** Unloads what the service loaded there; their names. Throws `REFUSED` where that fails. */
export async function detachAll(api: ApiClient, view: GuestView): Promise<readonly string[]> {
  const loaded = view.probes.filter((probe) => probe.loaded).map(({ name }) => name);
  if (loaded.length === 0) return [];
  const results = await api.detach(view.name, loaded);
  const failed = results.filter(({ ok }) => !ok);
  if (failed.length === 0) return loaded;
  throw new VesperError(
    'REFUSED',
    `probes of ${view.name} could not be detached: ${failed.map(({ message }) => message).join('; ')}. Nothing was removed; try vesper detach ${view.name} --all, then run this again`,
  );
}

function unproven(view: GuestView, facts: GuestFacts, version: string): VesperError {
  const { name, state, reason, boot_id: bootId, frontend } = view;
  const what =
    bootId !== '' && bootId !== facts.bootId
      ? `the service talks with another machine under that name (boot ${bootId}, here it is ${facts.bootId})`
      : frontend !== '' && frontend !== version
        ? `the service still talks with frontend ${frontend}`
        : `the service does not reach it: ${state}, ${reason}`;
  return new VesperError(
    'TIMEOUT',
    `the frontend is loaded in ${name}, but ${what} (${proofTimeoutMs / 1000} s waited). A guest needs a virtio-serial controller or a vsock device; "vesper guests" says what is missing, and dmesg in the guest what the frontend thinks`,
  );
}

/** Older firmware tables have the first three fields in the other byte order. */
function sameUuid(one: string, other: string): boolean {
  const swapped = other.replace(
    /^(..)(..)(..)(..)-(..)(..)-(..)(..)-/,
    (_all, a, b, c, d, e, f, g, h) => `${d}${c}${b}${a}-${f}${e}-${h}${g}-`,
  );
  return one === other || one === swapped;
}
