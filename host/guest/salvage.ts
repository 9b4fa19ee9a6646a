// SPDX-License-Identifier: Apache-2.0

/** Rings of an incarnation that ended while no service listened: their records are delivered before they are laid out anew. */

import type { ProvidedRegion } from '../provider/provider.ts';
import { blackBox } from '../relay/blackbox.ts';
import { regionLayout } from '../relay/layout.ts';
import { ClockAlignment } from './clock.ts';
import { EventBatch } from './event-batch.ts';
import { ProbeTable } from './probe-table.ts';
import type { LeftBehind } from './region-header.ts';
import type { SessionOptions } from './session-options.ts';

export function salvage(options: SessionOptions, region: ProvidedRegion, left: LeftBehind): void {
  const { machine, remembered, imageOf, events, log } = options;
  const aliveForS = Number(left.heartbeatNs) / 1e9;
  log.info(
    { guest: machine.name, boot_id: left.bootId, heartbeat_ns: String(left.heartbeatNs) },
    `${machine.name}: reading what an earlier boot left, which gave its last sign of life ${aliveForS.toFixed(1)} s after it began`,
  );
  const table = new ProbeTable();
  // Without the names of the slots, records are still delivered, as undecodable.
  for (const { slot, name, sha256, args } of remembered?.epoch === String(left.epoch)
    ? remembered.probes
    : []) {
    table.set({
      slot,
      name,
      sha256,
      image: imageOf(sha256),
      registered: true,
      armedPoints: 0,
      points: [],
      args,
    });
  }
  const batch = new EventBatch(
    { guest: machine.name, uuid: machine.uuid, bootId: left.bootId },
    table,
    new ClockAlignment(),
  );
  blackBox({
    path: region.path,
    ram: region.ram,
    layout: regionLayout({ regionBytes: region.bytes, cpuCount: left.cpuCount, ...left.split }),
    epoch: left.epoch,
    onBatch: (columns) => events.batch(batch.bind(columns)),
  });
}
