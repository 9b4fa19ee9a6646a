// SPDX-License-Identifier: Apache-2.0

/**
 * `node service.ts OPTIONS`: the service on a node of the cluster, made of the classes that `vesper serve` is made of, with the probes
 * attached. Prints a line of JSON when it is ready and one for each death it hears of, with the time at which it did. Ends with its
 * standard input.
 */

import { join } from 'node:path';
import type { EventBatch } from '../../host/guest/event-batch.ts';
import { followWallClock, wallMsOf } from '../../host/guest/wall-clock.ts';
import { createLog } from '../../host/log.ts';
import { LibvirtProvider } from '../../host/provider/libvirt/provider.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import { defaultHeartbeatMs, type PacemakerConfig } from '../../host/service/config.ts';
import { Service } from '../../host/service/service.ts';
import { repository } from '../harness/rig.ts';

export interface ServiceOptions {
  readonly guest: string;
  readonly directory: string;
  /** Null: it tells the cluster nothing, and only says when something died. */
  readonly pacemaker: PacemakerConfig | null;
}

/** A line of its output. */
export type Told =
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'death';
      /** PROBE.EVENT. */
      readonly event: string;
      readonly comm: string;
      /** Of the record, in host time. */
      readonly atMs: number;
      readonly errorMs: number | null;
      /** In the handler. */
      readonly heardMs: number;
      readonly fields: Readonly<Record<string, string>>;
    };

const tell = (line: Told): unknown => process.stdout.write(`${JSON.stringify(line)}\n`);
const patienceMs = 90_000;
const deaths: ReadonlySet<string> = new Set(['died', 'kill']);

function deliver(batch: EventBatch, heardMs: number): void {
  for (let row = 0; row < batch.length; row += 1) {
    if (!deaths.has(batch.declaration(row)?.name ?? '')) continue;
    const { probe, event, hostTimeMs, hostTimeErrorUs, fields } = batch.toEvent(row);
    tell({
      kind: 'death',
      event: `${probe}.${event}`,
      comm: String(fields['comm']),
      atMs: hostTimeMs,
      errorMs: hostTimeErrorUs === null ? null : hostTimeErrorUs / 1e3,
      heardMs,
      fields: Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, String(value)])),
    });
  }
}

const { guest, directory, pacemaker } = JSON.parse(process.argv[2] ?? '') as ServiceOptions;
const log = createLog('info');
const hub = new RelayHub();
const service = new Service({
  log,
  relays: hub,
  providers: [new LibvirtProvider({ uri: 'qemu:///system', log })],
  config: {
    runDirectory: join(directory, 'run'),
    stateDirectory: join(directory, 'state'),
    catalogueRoots: [join(repository, 'build')],
    regionBytes: undefined,
    heartbeatMs: defaultHeartbeatMs,
    pacemaker: pacemaker ?? undefined,
  },
});

// Heard is what reaches the first sink, as the cluster's own does what it does within its delivery.
const publish = service.bus.publish.bind(service.bus);
service.bus.publish = (batch) => {
  const heardMs = wallMsOf(Number(process.hrtime.bigint()));
  publish(batch);
  deliver(batch, heardMs);
};
await service.start();
const found = await service.guestFound(guest, patienceMs);
await found.active(patienceMs);
const results = await found.attach(['signal', 'oom'], [], {
  by: 'evaluation',
  selfTest: false,
  force: false,
});
const refused = results.find(({ ok }) => !ok);
if (refused !== undefined) throw new Error(refused.message);
const clock = setInterval(followWallClock, 1_000);
tell({ kind: 'ready' });

process.stdin.resume();
process.stdin.once('end', async () => {
  clearInterval(clock);
  await service.stop();
  hub.close();
});
