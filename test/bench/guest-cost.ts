// SPDX-License-Identifier: Apache-2.0

/**
 * What a point that writes a record of 64 bytes adds to a call of kill(), for VESPER and for its peers, on Debian's 6.1 and 6.12: in one
 * boot, in rounds that go through all of them, each as the difference to the bare loop of its round. Counted is the time
 * the guest's only CPU ran, with readers in the guest (VESPER has none) and without what it waited for others on this machine.
 * `record`: VESPER's point at the function's entry and ring, `tracepoint`: its ring by the tracepoint, `empty`: the point without a record;
 * `kprobe`: an ordinary kprobe without a record, `relay`: the same with the kernel's relay, read every 10 ms; `relay_point`: this
 * relay by VESPER's point; `relay_over`: relay by a kprobe, overwritten, read by nobody; `bpf`: a BPF program on a kprobe with a ring buffer, read every 10 ms,
 * `bpf_epoll`: read whenever it wakes its reader; `ftrace`: an ftrace kprobe event with three fields.
 */

import type { KernelKey } from '../../host/kernel/release.ts';
import { atMost, median, quantile, report } from '../harness/figure.ts';
import { buildPeer } from '../harness/peer.ts';
import { keepApart, ranNs, vcpuThreads } from '../harness/processors.ts';
import { fixturePath, Rig } from '../harness/rig.ts';

const symbol = '__send_signal_locked';
const rounds = 7;
const calls = 100_000;

interface Way {
  readonly name: string;
  arm(rig: Rig): Promise<void>;
  disarm(rig: Rig): Promise<void>;
}

const bare: Way = {
  name: 'bare',
  arm: () => Promise.resolve(),
  disarm: () => Promise.resolve(),
};

/** A mode of the fixture `costs`. */
const pushed = (kernel: KernelKey, mode: string): Way => ({
  name: mode,
  arm: async (rig) => void (await rig.attach([fixturePath(kernel, 'costs')], [`mode=${mode}`])),
  disarm: async (rig) => void (await rig.guest.detach('costs', 'bench')),
});

const tracing = '/sys/kernel/tracing';
const ftrace: Way = {
  name: 'ftrace',
  arm: async ({ machine }) => {
    await machine.check(
      `mountpoint -q ${tracing} || mount -t tracefs none ${tracing}; echo 'p:vesper_bench ${symbol} sig=%di:s32 info=%si:x64 comm=$comm' > ${tracing}/kprobe_events && echo 1 > ${tracing}/events/kprobes/vesper_bench/enable`,
    );
  },
  disarm: async ({ machine }) => {
    const seen = await machine.check(
      `tail -n1 ${tracing}/trace; echo 0 > ${tracing}/events/kprobes/vesper_bench/enable; echo > ${tracing}/kprobe_events; echo > ${tracing}/trace`,
    );
    if (!seen.includes('vesper_bench')) throw new Error(`the ftrace event did not fire: ${seen}`);
  },
};

/** A program of the guest that takes the records out; it has to get them. */
async function startPeer({ machine }: Rig, command: string): Promise<() => Promise<void>> {
  const pid = await machine.start(`peer ${command}`);
  await machine.check(`until grep -q ready /tmp/${pid}.out; do usleep 10000; done`);
  return async () => {
    const said = await machine.check(
      `kill ${pid}; until grep -q read. /tmp/${pid}.out; do usleep 10000; done; cat /tmp/${pid}.out; rm /tmp/${pid}.out`,
    );
    const read = Number(/read (\d+)/.exec(said)?.[1]);
    if (!(read >= calls)) throw new Error(`peer ${command} did not read all records: ${said}`);
  };
}

function bpf(name: string, arguments_: string): Way {
  let stop: () => Promise<void>;
  return {
    name,
    arm: async (rig) => {
      stop = await startPeer(rig, `bpf ${symbol} ${arguments_}`);
    },
    disarm: () => stop(),
  };
}

/** A mode of `costs` that writes into the kernel's relay, and who reads it. */
function relay(kernel: KernelKey, mode: string): Way {
  const { arm, disarm } = pushed(kernel, mode);
  let stop: () => Promise<void>;
  return {
    name: mode,
    arm: async (rig) => {
      await arm(rig);
      stop = await startPeer(rig, 'relay /sys/kernel/debug/vesper-costs0');
    },
    disarm: async (rig) => {
      await stop();
      await disarm(rig);
    },
  };
}

/**
 * Nanoseconds a call, of the time the guest's CPU really ran: what it had to wait for other work of this machine is not in it, what
 * readers in the guest take is.
 */
async function killLoop(rig: Rig, thread: number): Promise<number> {
  const { machine } = rig;
  await machine.check(`actor killloop ${calls / 10} > /tmp/loops`);
  const before = ranNs(machine.pid, thread);
  await machine.check(`actor killloop ${calls} > /tmp/loops`);
  return (ranNs(machine.pid, thread) - before) / calls;
}

async function measure(kernel: KernelKey, peer: string): Promise<void> {
  const ways = [
    bare,
    ...['empty', 'record', 'tracepoint', 'kprobe', 'relay_over'].map((mode) => pushed(kernel, mode)),
    relay(kernel, 'relay'),
    relay(kernel, 'relay_point'),
    bpf('bpf', ''),
    bpf('bpf_epoll', 'EPOLL'),
    ftrace,
  ];
  await using rig = await Rig.start({ kernel, files: { 'bin/peer': peer }, keepRow: () => false });
  await rig.machine.check('mount -t debugfs none /sys/kernel/debug');
  await keepApart(rig.machine);
  const [vcpu = 0] = await vcpuThreads(rig.machine);
  const added = new Map<string, number[]>(ways.map(({ name }) => [name, []]));
  const bareNs: number[] = [];
  for (let round = -1; round < rounds; round += 1) {
    const times = new Map<string, number>();
    for (let turn = 0; turn < ways.length; turn += 1) {
      const way = ways[(turn + round + 1) % ways.length] as Way;
      await way.arm(rig);
      times.set(way.name, await killLoop(rig, vcpu));
      await way.disarm(rig);
    }
    // The first round warms up.
    if (round < 0) continue;
    const base = times.get('bare') as number;
    bareNs.push(base);
    for (const [name, ns] of times) added.get(name)?.push(ns - base);
  }
  const series = kernel.replace('.', '_');
  const costOf = (name: string) => median(added.get(name) ?? []);
  report(`cost_${series}_bare`, median(bareNs), 'ns');
  for (const { name } of ways.slice(1)) report(`cost_${series}_${name}`, costOf(name), 'ns');
  // How sure the figure is that all of them refer to.
  report(`cost_${series}_record_quartile_1`, quantile(added.get('record') ?? [], 0.25), 'ns');
  report(`cost_${series}_record_quartile_3`, quantile(added.get('record') ?? [], 0.75), 'ns');
  const ratio = (name: string, goal?: number) =>
    report(
      `cost_${series}_record_to_${name}`,
      costOf('record') / costOf(name),
      '×',
      goal === undefined ? undefined : atMost(goal),
    );
  ratio('relay', 0.8);
  ratio('relay_point');
  ratio('relay_over');
  ratio('bpf', 0.5);
  ratio('ftrace', 0.4);
  report(`cost_${series}_records_lost`, rig.view.relay?.lost ?? Number.NaN, 'records');
}

const peer = await buildPeer();
for (const kernel of ['6.1', '6.12'] as const) await measure(kernel, peer);
