// SPDX-License-Identifier: Apache-2.0

/**
 * How long an attach takes, from the call in the service to the guest's word that the probe is armed: a small image and a large one
 * in turns, each detached again before the next, on one guest with Debian's 6.1.
 */

import { execFileSync } from 'node:child_process';
import { copyFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { atMost, median, quantile, report } from '../harness/figure.ts';
import { fixturePath, Rig } from '../harness/rig.ts';

const rounds = 30;
const warmUp = 3;

async function attachMs(rig: Rig, path: string, name: string): Promise<{ took: number; load: number }> {
  const before = performance.now();
  const [result] = await rig.attach([path]);
  const took = performance.now() - before;
  if (result === undefined || result.armed_points === 0) throw new Error(`${name} is not armed`);
  const { ok, message } = await rig.guest.detach(name, 'bench');
  if (!ok) throw new Error(message);
  return { took, load: result.load_ms };
}

await using rig = await Rig.start({ kernel: '6.1' });
// `strip -g` as every image; the symbols nobody needs go too, which brings it near 10 KB.
const small = join(rig.directory, 'lifetime.ko');
copyFileSync(fixturePath('6.1', 'lifetime'), small);
execFileSync('strip', ['--strip-unneeded', small]);
const probes = [
  { figure: 'attach_small', name: 'lifetime', path: small, goalMs: 40 },
  { figure: 'attach_200kib', name: 'bulky', path: fixturePath('6.1', 'bulky'), goalMs: 60 },
].map((probe) => ({ ...probe, took: [] as number[], load: [] as number[] }));

for (let round = 0; round < warmUp + rounds; round++) {
  for (const probe of probes) {
    const { took, load } = await attachMs(rig, probe.path, probe.name);
    if (round < warmUp) continue;
    probe.took.push(took);
    probe.load.push(load);
  }
}
for (const { figure, path, goalMs, took, load } of probes) {
  report(`${figure}_image`, statSync(path).size / 1024, 'KiB');
  report(`${figure}_median`, median(took), 'ms', atMost(goalMs));
  report(`${figure}_p90`, quantile(took, 0.9), 'ms');
  report(`${figure}_of_it_init_module_median`, median(load), 'ms');
}
