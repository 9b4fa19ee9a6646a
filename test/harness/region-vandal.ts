// SPDX-License-Identifier: Apache-2.0

/**
 * A process that writes records into the region of its arguments and, all the time, nonsense beside them:
 * `region-vandal.ts PATH REGION-BYTES EPOCH SEED [CPUS]`. Every so often it lays the rings out anew. Goes on until it is killed.
 */

import { regionLayout, splitRegion } from '../../host/relay/layout.ts';
import { corrupt, pristineOf, Random } from './corruption.ts';
import { RegionWriter } from './region-writer.ts';

const [path = '', bytes, epoch, seed, cpus = '2'] = process.argv.slice(2);
const regionBytes = Number(bytes);
const cpuCount = Number(cpus);
const layout = regionLayout({ regionBytes, cpuCount, ...splitRegion(regionBytes, cpuCount) });
const random = new Random(Number(seed));

let writer = new RegionWriter(path, layout, BigInt(epoch ?? 0), { resume: true });
const pristine = pristineOf(writer, layout);
process.stdout.write('ready\n');
for (;;) {
  writer.poke(0, pristine);
  writer.close();
  writer = new RegionWriter(path, layout, BigInt(epoch ?? 0), { resume: true });
  for (let i = 0; i < 100; i++) writer.ring(random.below(layout.rings.length)).write();
  for (let i = 0; i < 200; i++) {
    corrupt(writer, random);
    writer.ring(random.below(layout.rings.length)).write();
  }
}
