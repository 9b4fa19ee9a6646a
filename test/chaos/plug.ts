// SPDX-License-Identifier: Apache-2.0

/**
 * `node test/chaos/plug.ts [ROUNDS] [pc|q35] [port|region|both]`: somebody unplugs the port, then the region, then both, or that one
 * only, 100 times unless told otherwise, and the service plugs them again each time, with the probe loaded and at work. Ends with status 1 and what QEMU said
 * where QEMU, the guest or the service does not come through.
 */

import type { MachineType } from '../../host/demo/qemu-arguments.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { leftovers, Rig } from '../harness/rig.ts';

const rounds = Number(process.argv[2] ?? 100);
const machine = (process.argv[3] ?? 'pc') as MachineType;
const only = process.argv[4];
const patienceMs = 60_000;
/** By these ids the provider plugs them. */
const devices = {
  port: ['vesper-port'],
  region: ['vesper-ivshmem'],
  both: ['vesper-ivshmem', 'vesper-port'],
};

const rig = await Rig.start({ machine, heartbeatMs: 300, keepRow: () => false });
let exited = false;
void rig.machine.exited.then(() => {
  exited = true;
});

async function replug(ids: readonly string[]): Promise<number> {
  const { session } = rig.guest;
  const startedAt = performance.now();
  await Promise.all(ids.map((id) => rig.machine.qmp('device_del', { id })));
  const back = () =>
    rig.guest.session !== session && rig.view.state === 'active' && rig.view.probes[0]?.loaded;
  await rig.until(() => exited || back(), 'the guest with its probe', patienceMs);
  // Throws with what QEMU said when it is gone.
  await rig.machine.check('true');
  return performance.now() - startedAt;
}

try {
  await rig.attach(['signal']);
  for (const [what, ids] of Object.entries(devices)) {
    if (only !== undefined && what !== only) continue;
    const took: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      try {
        took.push(await replug(ids));
      } catch (cause) {
        throw new Error(`${machine}, ${what}, round ${round}`, { cause });
      }
    }
    took.sort((a, b) => a - b);
    const at = (share: number) => Math.round(took[Math.floor(share * (took.length - 1))] ?? 0);
    console.log(`${machine}: ${what} ${rounds} times: back after ${at(0.5)} ms (median), ${at(1)} ms (most)`);
  }
  expectNoComplaints(rig.machine.console());
} catch (thrown) {
  console.error(thrown);
  process.exitCode = 1;
} finally {
  await rig.close();
  const left = leftovers();
  if (left.length > 0) {
    console.error('left behind:', left);
    process.exitCode = 1;
  }
}
