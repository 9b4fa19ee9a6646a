// SPDX-License-Identifier: Apache-2.0

/**
 * What is lost between a guest's kernel and a sink of the service that judges every record: storms of 64-byte records at 200,000, 400,000
 * and 2,100,000 records a second and as fast as the guest can write, all CPUs together, on guests with one CPU and four (which under
 * TCG take turns), with a region of the default size and another. How long a ring lasts is what the region has for each CPU: the goal of
 * a storm without a pace is for 2 MiB for each, the default; four CPUs have less where their region lies behind a PCI Express root
 * port of which nothing is said: 2 MiB in all. The guest's count of what it lost
 * and the gaps that the host sees have to agree, and with what arrived make up what was written, or the bench fails.
 * `reader_waited`: how long the service's thread had work and no processor, because of other work on this machine; what the
 * rings hold lasts for a millisecond of a storm without a pace.
 */

import { readFileSync } from 'node:fs';
import type { GuestSession } from '../../host/guest/session.ts';
import { defaultRegionBytes, regionBytesPerCpu } from '../../host/relay/layout.ts';
import { atMost, median, quantile, report } from '../harness/figure.ts';
import { keepApart } from '../harness/processors.ts';
import { fixturePath, Rig } from '../harness/rig.ts';
import { StormCensus } from '../harness/storm-census.ts';

const kernel = '6.1';
const rounds = 7;
const MiB = 1 << 20;
const storm = fixturePath(kernel, 'storm');

interface Offer {
  readonly name: string;
  /** Records a second, all CPUs together; 0: as fast as the guest can. */
  readonly rate: number;
  readonly records: number;
  /** Most percent that may be lost; above 0: into a region with `regionBytesPerCpu`. */
  readonly goal?: number;
}

const offers: readonly Offer[] = [
  { name: '200k', rate: 200_000, records: 100_000, goal: 0 },
  { name: '400k', rate: 400_000, records: 400_000, goal: 0 },
  { name: '2100k', rate: 2_100_000, records: 1_050_000 },
  { name: 'unpaced', rate: 0, records: 2_000_000, goal: 1 },
];
const warmUp: Offer = { name: 'warm-up', rate: 0, records: 2_000_000 };

interface Round {
  readonly lost: number;
  readonly rate: number;
  readonly waitedMs: number;
}

/** How long this thread was ready to run and did not, in ms. */
const waitedMs = (): number =>
  Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[1]) / 1e6;

function sessionOf(rig: Rig): GuestSession {
  const { session } = rig.guest;
  if (session === undefined) throw new Error(`the session has ended: ${rig.guest.reason}`);
  return session;
}

function expectEqual(what: string, found: number, wanted: number): void {
  if (found !== wanted) throw new Error(`${what}: ${found}, not ${wanted}`);
}

async function rage(rig: Rig, census: StormCensus, { rate, records }: Offer): Promise<Round> {
  rig.events.length = 0;
  census.newStorm();
  const waitedBefore = waitedMs();
  await rig.attach([storm], [`records=${records}`, `rate=${rate}`, 'start=1']);
  const { fields } = await rig.event(({ event }) => event === 'finished');
  const waited = waitedMs() - waitedBefore;
  // Critical events are read first: the last of the others may still be in their rings.
  sessionOf(rig).drain();
  const { ok, message } = await rig.guest.detach('storm', 'bench');
  if (!ok) throw new Error(message);
  const lost = Number(fields['refused']);
  expectEqual('records tried', Number(fields['tried']), records);
  expectEqual('records delivered and lost', census.blasts + lost, records);
  expectEqual('records torn or out of order', census.torn + census.disordered, 0);
  return { lost, rate: records / (Number(fields['took_ns']) / 1e9), waitedMs: waited };
}

/** What was lost at the end of a storm is a gap only when later records arrive: some are written into each ring. */
const flush = (rig: Rig, census: StormCensus): Promise<Round> =>
  rage(rig, census, { name: 'flush', rate: 10_000, records: 100 });

async function measure(
  rig: Rig,
  census: StormCensus,
  offer: Offer,
  name: string,
  judge: (goal: number) => boolean,
): Promise<void> {
  const before = sessionOf(rig).statistics;
  const all: Round[] = [];
  for (let round = 0; round < rounds; round += 1) all.push(await rage(rig, census, offer));
  const lost = all.reduce((sum, round) => sum + round.lost, 0);
  await flush(rig, census);
  const after = sessionOf(rig).statistics;
  expectEqual('records lost, as the rings count', after.lost - before.lost, lost);
  expectEqual('gaps, as the host counts', after.gaps - before.gaps, lost);
  expectEqual('records outstanding', after.outstanding, 0);
  expectEqual('records delivered twice', after.duplicates, 0);
  const percent = all.map((round) => (round.lost / offer.records) * 100);
  // "None" is none in any round; a share is a median.
  const judged = offer.goal === 0 ? (lost / offer.records / rounds) * 100 : median(percent);
  report(`${name}_offered`, offer.records * rounds, 'records');
  report(`${name}_written`, median(all.map(({ rate }) => rate)) / 1e3, 'k records/s');
  report(`${name}_lost_as_the_guest_counts`, lost, 'records');
  report(`${name}_gaps_as_the_host_counts`, after.gaps - before.gaps, 'records');
  const goal = offer.goal !== undefined && judge(offer.goal) ? atMost(offer.goal) : undefined;
  report(`${name}_loss_${offer.goal === 0 ? 'of_all' : 'median'}`, judged, '%', goal);
  report(`${name}_loss_worst_round`, quantile(percent, 1), '%');
  report(`${name}_reader_waited_median`, median(all.map((round) => round.waitedMs)), 'ms');
}

for (const [cpus, other] of [
  [1, 4 * MiB],
  [4, 2 * MiB],
] as const) {
  for (const regionBytes of [defaultRegionBytes(cpus), other]) {
    const census = new StormCensus();
    await using rig = await Rig.start({
      kernel,
      cpus,
      regionBytes,
      keepRow: ({ columns }, row) => (columns.ring[row] as number) % 2 === 0,
    });
    rig.service.bus.add(census);
    await keepApart(rig.machine);
    await rage(rig, census, warmUp);
    await flush(rig, census);
    for (const offer of offers) {
      const name = `loss_${cpus}_cpu_${regionBytes / MiB}_mib_${offer.name}`;
      const enough = regionBytes / cpus >= regionBytesPerCpu;
      await measure(rig, census, offer, name, (goal) => goal === 0 || enough);
    }
  }
}
