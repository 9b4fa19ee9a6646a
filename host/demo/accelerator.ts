// SPDX-License-Identifier: Apache-2.0

import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { VesperError } from '../error.ts';
import { cacheDirectory } from '../kernel/cache.ts';

export type Accelerator = 'kvm' | 'tcg';

let known: Promise<Accelerator> | undefined;

/**
 * KVM where a stock kernel really boots under it, TCG elsewhere: a /dev/kvm that opens proves nothing, on some machines
 * guests hang in it. The answer is kept until the host boots again. `VESPER_ACCEL=kvm|tcg` overrides.
 *
 * @param boots tries a boot under KVM within a time limit of its own.
 */
export function chooseAccelerator(boots: () => Promise<boolean>): Promise<Accelerator> {
  known ??= decide(boots);
  return known;
}

async function decide(boots: () => Promise<boolean>): Promise<Accelerator> {
  const { VESPER_ACCEL: forced } = process.env;
  if (forced === 'kvm' || forced === 'tcg') return forced;
  if (forced) throw new VesperError('USAGE', `VESPER_ACCEL is ${forced}; it can be kvm or tcg.`);
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg'; // No KVM here, or not for this user.
  }
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const answer = join(cacheDirectory(), 'accelerator', bootId);
  if (existsSync(answer)) return readFileSync(answer, 'utf8').trim() === 'kvm' ? 'kvm' : 'tcg';
  const accelerator = (await boots()) ? 'kvm' : 'tcg';
  mkdirSync(join(cacheDirectory(), 'accelerator'), { recursive: true });
  writeFileSync(`${answer}.${process.pid}`, `${accelerator}\n`);
  renameSync(`${answer}.${process.pid}`, answer);
  return accelerator;
}
