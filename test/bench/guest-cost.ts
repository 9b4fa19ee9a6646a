// SPDX-License-Identifier: Apache-2.0

/**
 * What a point that writes a record of 64 bytes adds to a call of kill(), for VESPER and for its peers, on Debian's 6.1 and 6.12: in
 * several boots, in rounds that go through all of them, each as the difference to the bare loops just before and just after it; the
 * median of all rounds. Counted is the time the guest's only CPU ran, with readers in the guest (VESPER has none) and without what it waited for
 * others on this machine. The emulator's buffer has room for all that it translates: whenever it is full, all that runs is
 * translated anew, on account of whatever is measured just then (`translator_flushes`: how often).
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
/** Where the kernel and its modules lie, another time at each boot, decides what collides in the emulator's caches. */
const boots = 4;
const rounds = 2;
/** Of one process, and how many processes make them one after the other. */
const calls = 20_000;
const processes = 4;
/** Several times what a guest fills in this bench. */
const tcgBufferMib = 512;

interface Way {
  readonly name: string;
  /** Fewer for one that takes long; `processes` unless given. */
  readonly processes?: number;
  arm(rig: Rig): Promise<void>;
  disarm(rig: Rig): Promise<void>;
}

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
async function startPeer({ machine }: Rig, command: string, records: number): Promise<() => Promise<void>> {
  const pid = await machine.start(`peer ${command}`);
  await machine.check(`until grep -q ready /tmp/${pid}.out; do usleep 10000; done`);
  return async () => {
    const said = await machine.check(
      `kill ${pid}; until grep -q read. /tmp/${pid}.out; do usleep 10000; done; cat /tmp/${pid}.out; rm /tmp/${pid}.out`,
    );
    const read = Number(/read (\d+)/.exec(said)?.[1]);
    if (!(read >= records)) throw new Error(`peer ${command} did not read all records: ${said}`);
  };
}

function bpf(name: string, arguments_: string, count = processes): Way {
  let stop: () => Promise<void>;
  return {
    name,
    processes: count,
    arm: async (rig) => {
      stop = await startPeer(rig, `bpf ${symbol} ${arguments_}`, count * calls);
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
      stop = await startPeer(rig, 'relay /sys/kernel/debug/vesper-costs0', processes * calls);
    },
    disarm: async (rig) => {
      await stop();
      await disarm(rig);
    },
  };
}

/**
 * Nanoseconds a call, of the time the guest's CPU really ran: what it had to wait for other work of this machine is not in it, what
 * readers in the guest take is. A mean over several processes: the pages that a process gets (its kernel stack is one of two that are
 * used in turns) may collide with others in the emulator's caches, which costs each of its calls a tenth more.
 */
async function killLoop({ machine }: Rig, thread: number, count = processes): Promise<number> {
  const loops = (times: number) =>
    machine.check(`for i in $(seq ${times}); do actor killloop ${calls} > /tmp/loops; done`);
  await loops(1);
  const before = ranNs(machine.pid, thread);
  await loops(count);
  return (ranNs(machine.pid, thread) - before) / (count * calls);
}

/** How often the emulator threw away all that it had translated; never where the guest is not emulated. */
async function translatorFlushes({ machine }: Rig): Promise<number> {
  if (machine.accelerator !== 'tcg') return 0;
  const said = await machine.qmp('human-monitor-command', { 'command-line': 'info jit' });
  return Number(/TB flush count\s+(\d+)/.exec(String(said))?.[1]);
}

/** What was measured of a kernel, in all its boots. */
class Costs {
  readonly bareNs: number[] = [];
  readonly added = new Map<string, number[]>();
  flushes = 0;
  lost = 0;

  /** Nanoseconds a call of one way, and without any. */
  add(name: string, ns: number, bareNs: number): void {
    this.added.set(name, [...(this.added.get(name) ?? []), ns - bareNs]);
  }
}

async function measureBoot(kernel: KernelKey, ways: readonly Way[], boot: number, costs: Costs) {
  await using rig = await Rig.start({
    kernel,
    files: { 'bin/peer': peer },
    keepRow: () => false,
    tcgBufferMib,
  });
  await rig.machine.check('mount -t debugfs none /sys/kernel/debug');
  await keepApart(rig.machine);
  const [vcpu = 0] = await vcpuThreads(rig.machine);
  for (let round = 0; round < rounds; round += 1) {
    let before = await killLoop(rig, vcpu);
    costs.bareNs.push(before);
    for (let turn = 0; turn < ways.length; turn += 1) {
      const way = ways[(turn + boot * rounds + round) % ways.length] as Way;
      await way.arm(rig);
      const ns = await killLoop(rig, vcpu, way.processes);
      await way.disarm(rig);
      const after = await killLoop(rig, vcpu);
      costs.bareNs.push(after);
      costs.add(way.name, ns, (before + after) / 2);
      before = after;
    }
  }
  costs.flushes += await translatorFlushes(rig);
  costs.lost += rig.view.relay?.lost ?? Number.NaN;
}

async function measure(kernel: KernelKey): Promise<void> {
  const ways = [
    ...['empty', 'record', 'tracepoint', 'kprobe', 'relay_over'].map((mode) => pushed(kernel, mode)),
    relay(kernel, 'relay'),
    relay(kernel, 'relay_point'),
    bpf('bpf', ''),
    bpf('bpf_epoll', 'EPOLL', 2),
    ftrace,
  ];
  const costs = new Costs();
  for (let boot = 0; boot < boots; boot += 1) await measureBoot(kernel, ways, boot, costs);
  const series = kernel.replace('.', '_');
  const addedBy = (name: string) => costs.added.get(name) ?? [];
  const costOf = (name: string) => median(addedBy(name));
  report(`cost_${series}_bare`, median(costs.bareNs), 'ns');
  for (const { name } of ways) report(`cost_${series}_${name}`, costOf(name), 'ns');
  // How sure the figures are that the goals compare.
  for (const name of ['record', 'bpf'])
    for (const quarter of [1, 3])
      report(`cost_${series}_${name}_quartile_${quarter}`, quantile(addedBy(name), quarter / 4), 'ns');
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
  report(`cost_${series}_translator_flushes`, costs.flushes, 'flushes');
  report(`cost_${series}_records_lost`, costs.lost, 'records');
}

const peer = await buildPeer();
for (const kernel of ['6.1', '6.12'] as const) await measure(kernel);
