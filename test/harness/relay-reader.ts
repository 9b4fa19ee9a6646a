// SPDX-License-Identifier: Apache-2.0

/**
 * A reader in a process of its own. Prints `ring:sequence` of what it was given, one a line. Mode `hold` stops inside the handler of the first batch, before anything is released, until it is killed.
 */

import { writeSync } from 'node:fs';
import { RelayHub } from '../../host/relay/hub.ts';
import { regionLayout } from '../../host/relay/layout.ts';

const [path = '', regionBytes, cpuCount, criticalRingBytes, ringBytes, epoch, mode] = process.argv.slice(2);
const layout = regionLayout({
  regionBytes: Number(regionBytes),
  cpuCount: Number(cpuCount),
  criticalRingBytes: Number(criticalRingBytes),
  ringBytes: Number(ringBytes),
});

const relay = new RelayHub({ quietNs: 1e10 }).open({
  path,
  layout,
  epoch: BigInt(epoch ?? 0),
  onBatch: (batch) => {
    let lines = '';
    for (let row = 0; row < batch.count; row++) lines += `${batch.ring[row]}:${batch.sequence[row]}\n`;
    writeSync(1, lines);
    while (mode === 'hold') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  },
});
relay.start();
// The watcher does not keep the process alive; until it is killed, this does.
setInterval(() => undefined, 1000);
