// SPDX-License-Identifier: Apache-2.0

import type { LoadedProbe } from '../guest/probe-state.ts';
import type { Failure } from '../service/guest-probes.ts';
import type { ManagedGuest } from '../service/managed-guest.ts';
import type { WantedProbe } from '../service/wanted.ts';
import { guestHealth } from './guest-health.ts';
import type { GuestView, ProbeView, RelayView } from './view.ts';

/** A guest as the API shows it. */
export function guestView(guest: ManagedGuest): GuestView {
  const { machine, session } = guest;
  return {
    name: machine.name,
    uuid: machine.uuid,
    provider: machine.provider,
    state: guest.state,
    reason: guest.reason,
    health: guestHealth(guest),
    channel: session?.channelDescription ?? '',
    boot_id: session?.incarnation.bootId ?? '',
    kernel: session?.hello.kernel_release ?? '',
    vermagic: session?.hello.vermagic ?? '',
    machine: session?.hello.machine ?? '',
    image_max: session?.hello.image_max ?? 0,
    frontend: session?.hello.frontend_version ?? '',
    clock_error_us: session?.clockErrorUs ?? null,
    probes: probeViews(guest),
    relay: relayView(guest),
    past: guest.past.map(({ bootId, reason, delivered, lost }) => ({
      boot_id: bootId,
      reason,
      delivered,
      lost,
    })),
  };
}

function probeViews(guest: ManagedGuest): readonly ProbeView[] {
  const loaded = guest.session?.probes.all() ?? [];
  const names = new Set([...loaded.map(({ name }) => name), ...guest.wanted.map(({ name }) => name)]);
  return [...names].sort().map((name) =>
    probeView(
      name,
      loaded.find((probe) => probe.name === name && probe.loading === undefined),
      guest.wanted.find((probe) => probe.name === name),
      guest.failures.get(name),
    ),
  );
}

const probeView = (
  name: string,
  loaded: LoadedProbe | undefined,
  wanted: WantedProbe | undefined,
  failure: Failure | undefined,
): ProbeView => ({
  name,
  sha256: loaded?.sha256 ?? wanted?.sha256 ?? '',
  slot: loaded?.slot ?? null,
  wanted: wanted !== undefined,
  loaded: loaded !== undefined,
  armed_points: loaded?.armedPoints ?? 0,
  points: loaded?.points ?? [],
  parameters: wanted?.parameters ?? {},
  wanted_by: wanted === undefined ? null : (wanted.configured ?? 'attach'),
  reason: failure?.message ?? '',
  attempts: failure?.attempts ?? 0,
  next_attempt: failure?.nextAt?.toISOString() ?? null,
});

function relayView({ session }: ManagedGuest): RelayView | null {
  if (session === undefined) return null;
  const { delivered, lost, gaps, quarantined, overwritten, rings } = session.statistics;
  return {
    backend: session.place.backend,
    backend_reason: session.place.why,
    region_bytes: session.region.bytes,
    rings,
    delivered,
    lost,
    gaps,
    undecodable: session.undecodable,
    quarantined,
    overwritten,
  };
}
