// SPDX-License-Identifier: Apache-2.0

/** docs/evaluation.md, made of nothing but what one run measured. */

import { detectionShare, goals, summary } from './goals.ts';
import { measures, timeText } from './plot.ts';
import { type Costs, type Crash, crashesOf, experiments, modes, type Results } from './results.ts';

const introduction = `How long it takes a cluster to hear that a service in a virtual machine died, what it is told of the cause, and when the
service answers again: by polling, and by VESPER. This repeats the evaluation of the original VESPER (a web service in a VM, Linux-HA
polling it every 10 s; a SIGSEGV in httpd, and an OOM kill), which halved the time to detection, with today's programs. Written by
\`make evaluate\` in one run on one machine.`;

const method = `* **The cluster** is Corosync and Pacemaker of Debian 12 on two nodes, which are namespaces of this machine. The virtual machine is a
  \`VirtualDomain\` resource of libvirt and a guest node (pacemaker-remoted in a stock Debian kernel, an initramfs); the web server is
  Debian's lighttpd, a resource that runs on that guest node. Its agent is a short shell script that is run in the guest: its monitor
  looks for the process and gets the page, as \`ocf:heartbeat:apache\` does.
* **Modes.** Polling: the resource's monitor every 10 s, or every 1 s, and a VESPER service that has the probes \`signal\` and \`oom\`
  attached, hears of each death and tells nobody. VESPER: the monitor every 10 s goes on, and the service has the section
  \`pacemaker\` with one rule for the process and its resource; \`cooldown\` is 1 s, not 30, since here the same server dies every few
  seconds. All else is the same.
* **SIGSEGV**: another process sends it to the server. **OOM**: another process takes all memory of the guest; the server has
  \`oom_score_adj\` 1000, so that the kernel kills it first, and the other one next.
* **When.** Each death comes at a time drawn at random and counted from the last poll (for OOM: that is when memory begins to be eaten,
  which takes a second or more). The interval of the poll has as many equal parts as there are deaths of a mode and experiment; each
  part gets one, anywhere within it, in an order drawn at random, too: a few drawn from the whole interval can all lie to one side. Modes and experiments take turns in blocks of five.
* **Time 0** is the record of the death in the guest's kernel, in all modes alike: \`signal.died\`, or \`oom.kill\`, which is the OOM
  killer's choice and comes some milliseconds before the end of the process. Its guest time is brought to the host's clock by VESPER's
  alignment of clocks, with the error the table of facts has.
* **Detected**: by VESPER, when the service's handler has the event. By polling, when Pacemaker's log says that the monitor failed (its
  clock ticks in 4 ms, so at most that much too early).
* **Recovery begins**: when the log of Pacemaker's coordinator says that it initiates the stop of what is left of the server.
* **Guest node asked**: when the log of the node says that it asks the guest node for that. Between the two it has asked pacemaker-remoted in
  the guest what it knows of the resource.
* **Agent called**: when the agent is called for that. It says so first of all, over the guest's serial line, and it counts when the host
  has read it. Between the two are pacemaker-remoted in the guest, and the start of the agent there.
* **Answers again**: the first whole page with status 200 that a client on the node gets after that. The client asks one request at a
  time, 10 ms after the one before ended, and gives up after 250 ms.
* The guest's clock is set before each death, as on a machine that sets it by the network: Pacemaker has times of guest nodes from
  their own clocks.`;

const limits = `* Guests run as the table of facts says. Under TCG all that runs in the guest, which is pacemaker-remoted, the agent and the start of the
  server, is many times slower than on hardware. It makes both modes slower, and detection's share of the whole smaller than it would be.
* The guest's kernel is started with \`quiet\`, as Debian's installer sets it up. Without it the kernel prints some 60 lines about an OOM
  kill, over a serial line for 15 to 30 ms. VESPER hears of the kill before that, but a guest with one processor runs little else
  meanwhile, and pacemaker-remoted answers so much later.
* Guest, host, both nodes and the client share the processors. On a machine of its own each would be faster.
* A server that hangs, or answers wrongly, is not in here: a poll finds it, a probe for deaths does not.
* One guest, one service, no disk: neither is a real service's time to start.`;

export function evaluationPage(results: Results): string {
  const parts = [
    '# Evaluation',
    introduction,
    table([], results.facts),
    '## Goals',
    goalTable(results),
    '## Times',
    '![distributions](evaluation.svg)',
    ...experiments.flatMap((experiment) => [`### ${experiment}`, timeTable(results, experiment)]),
    '## What was known of the cause',
    causes(results),
    '## What it costs with 100 machines',
    results.costs === undefined ? 'Not measured in this run.' : costs(results.costs),
    '## How it was measured',
    method,
    '## What it does not show',
    limits,
    '## What did not work',
    failures(results),
  ];
  return `${parts.join('\n\n')}\n`;
}

/** Of the tables: as in the plot, and two between. */
const columns: readonly { readonly name: string; readonly of: (crash: Crash) => number }[] = [
  ...measures.slice(0, 2),
  { name: 'guest node asked', of: ({ askedMs }) => askedMs },
  { name: 'agent called', of: ({ agentMs }) => agentMs },
  ...measures.slice(2),
];

function goalTable(results: Results): string {
  const all = goals(results);
  if (all.length === 0) return 'Nothing was measured of which there is a goal.';
  const met = all.filter((goal) => goal.met).length;
  const rows = all.map((goal) => [goal.what, goal.goal, goal.measured, goal.met ? 'yes' : '**no**']);
  return `${met} of ${all.length} goals met. Of fewer than 100 crashes p99 is the longest.\n\n${table(['', 'goal', 'measured', 'met'], rows)}`;
}

function timeTable(results: Results, experiment: Crash['experiment']): string {
  const rows = modes.flatMap((mode) => {
    const crashes = crashesOf(results, mode, experiment);
    if (crashes.length === 0) return [];
    const figures = columns.map(({ of }) => {
      const { median, mean, max } = summary(crashes.map(of));
      return [median, mean, max].map(timeText).join(' / ');
    });
    const share = `${Number((detectionShare(crashes) * 100).toPrecision(2))} %`;
    return [[mode, `${crashes.length}`, ...figures, share]];
  });
  if (rows.length === 0) return 'Not measured in this run.';
  const heads = ['', 'crashes', ...columns.map(({ name }) => name), 'share of detection'];
  return `Median / mean / longest:\n\n${table(heads, rows)}`;
}

function causes(results: Results): string {
  if (results.causes.length === 0) return 'Not measured in this run.';
  const said = results.causes.map(
    ({ mode, experiment, text }) => `${experiment}, ${mode}:\n\n\`\`\`\n${text}\n\`\`\``,
  );
  return [
    'What `crm_mon -A` shows after a crash, unabridged. The attribute `vesper-…` is what VESPER tells; without it there is the poll only.',
    ...said,
  ].join('\n\n');
}

function costs({ guests, polling, inGuest, virtualDomain, vesper }: Costs): string {
  const share = (cpu: number): string => `${Number((cpu * 100).toPrecision(3))} %`;
  const each = (polling.cpu - polling.idleCpu) / polling.polls;
  const qemu = inGuest.qemuCpu - inGuest.idleQemuCpu;
  const rows = [
    [
      `the cheapest poll on a node: busybox's wget gets the page, for ${guests} resources of Pacemaker, each every 1 s`,
      `${timeText(each * 1e3)} a poll: the agent, and Pacemaker's daemons`,
      share(each * guests),
    ],
    [
      'a monitor of `ocf:heartbeat:VirtualDomain`, which does not look into the guest',
      `${timeText(virtualDomain * 1e3)} a poll`,
      share(virtualDomain * guests),
    ],
    [
      "the experiments' own poll, in the guest, every 1 s",
      `${share(qemu)} of a processor more for its QEMU than without`,
      share(qemu * guests),
    ],
    ["VESPER's service, a probe attached to each of as many idle guests", '', `**${share(vesper)}**`],
  ];
  return `${table(['', 'measured', `${guests} machines, of one processor`], rows)}

Of the ${guests} resources in the first row ${Number(polling.polls.toPrecision(3))} a second were polled: Pacemaker counts the second from the end
of a poll to the next. All of them poll the one guest there is. The ${guests} guests of the last row are stand-ins: a process that speaks a
frontend's protocol, and writes no records. What a probe costs its guest is in [performance](performance.md).`;
}

const failures = ({ failures: lines, rounds }: Results): string =>
  lines.length === 0
    ? `Nothing: all of the ${rounds} crashes for each mode and experiment were measured at the first try.`
    : lines.map((line) => `* ${cell(line)}`).join('\n');

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const titles = heads.length === 0 ? ['', ''] : heads;
  const line = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;
  return [line(titles), `|${titles.map(() => '---').join('|')}|`, ...rows.map(line)].join('\n');
}

/** What a message may contain would otherwise end the cell, or the row. */
const cell = (text: string): string => text.replaceAll('|', '/').replaceAll(/\s+/g, ' ').trim();
