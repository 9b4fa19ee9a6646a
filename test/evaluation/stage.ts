// SPDX-License-Identifier: Apache-2.0

/**
 * What the experiments are done with: a cluster of two nodes, a virtual machine that is a guest node of it with a web server as its
 * resource, a client that asks the server for its page all the time, and a service that hears of every death in the guest, whether or
 * not it tells the cluster. Each notes when something happened; nothing here acts on it.
 */

import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { wallMsOf } from '../../host/guest/wall-clock.ts';
import type { PacemakerConfig } from '../../host/service/config.ts';
import { Cluster } from '../harness/cluster.ts';
import type { ClusterNode } from '../harness/cluster-node.ts';
import { WebGuest } from '../harness/web-guest.ts';
import type { Change } from './client.ts';
import { type ClusterResult, clusterResult } from './cluster-log.ts';
import type { ServiceOptions, Told } from './service.ts';

export type Death = Extract<Told, { readonly kind: 'death' }>;

/** The cluster's call of the web server's agent, as it came to the agent. */
export interface AgentCall {
  readonly task: string;
  readonly atMs: number;
}

/** How the cluster hears that the server died, beside the poll. */
export type Teller = 'nobody' | 'vesper';

interface Log {
  readonly fd: number;
  /** How far it was read. */
  at: number;
  /** The beginning of a line. */
  rest: string;
}

const patienceMs = 120_000;
/** How wrong the guest's clock may be; behind it looks by the time that its word takes to get here, too. */
const mostBehindMs = 150;
const mostAheadMs = 250;
const now = (): number => wallMsOf(Number(process.hrtime.bigint()));

export class Stage implements AsyncDisposable {
  readonly cluster: Cluster;
  readonly web: WebGuest;
  /** The one that the machine is on. */
  readonly node: ClusterNode;
  readonly changes: Change[] = [];
  readonly deaths: Death[] = [];
  readonly calls: AgentCall[] = [];
  readonly results: ClusterResult[] = [];
  /** What the programs that were started said, each line with the program's name. */
  readonly said: string[] = [];
  #client: ChildProcess | undefined;
  #service: ChildProcess | undefined;
  /** Of Pacemaker on both nodes: either may be the coordinator. */
  readonly #logs: readonly Log[];
  #broken: Error | undefined;

  private constructor(cluster: Cluster, web: WebGuest, node: ClusterNode) {
    this.cluster = cluster;
    this.web = web;
    this.node = node;
    this.#logs = [cluster.node(0), cluster.node(1)].map(({ pid }) => ({
      fd: openSync(`/proc/${pid}/root/var/log/pacemaker/pacemaker.log`, 'r'),
      at: 0,
      rest: '',
    }));
  }

  static async start(): Promise<Stage> {
    const cluster = await Cluster.start({ bridge: true });
    let web: WebGuest | undefined;
    let stage: Stage | undefined;
    try {
      web = await WebGuest.create(cluster);
      stage = new Stage(cluster, web, await web.start());
      await stage.#prepare();
      return stage;
    } catch (thrown) {
      if (stage !== undefined) await stage.close();
      else {
        web?.close();
        await cluster.close();
      }
      throw thrown;
    }
  }

  /** Ends the service that runs, if one does, and starts another. */
  async serve(teller: Teller): Promise<void> {
    await end(this.#service);
    const directory = join(this.cluster.directory, 'vesper');
    mkdirSync(directory, { recursive: true });
    const options: ServiceOptions = {
      guest: this.web.name,
      directory,
      pacemaker: teller === 'vesper' ? pacemaker(this.web) : null,
    };
    const ready = Promise.withResolvers<void>();
    this.#service = this.#start('service.ts', [JSON.stringify(options)], (line) => {
      const told = JSON.parse(line) as Told;
      if (told.kind === 'death') this.deaths.push(told);
      else ready.resolve();
    });
    this.#service.once('exit', () => ready.reject(this.#broken ?? new Error('the service ended')));
    await ready.promise;
  }

  /** Has the cluster poll the server so often; 0: never. */
  async poll(intervalMs: number): Promise<void> {
    const { server } = this.web;
    const op = `<op id="${server}-monitor" name="monitor" interval="${intervalMs}ms" timeout="60s" enabled="${intervalMs > 0}"/>`;
    const change = `<primitive id="${server}"><operations>${op}</operations></primitive>`;
    const before = now();
    await this.node.check('cibadmin', '--modify', '--scope', 'resources', '--xml-text', change);
    if (intervalMs > 0)
      await this.until(
        () => this.calls.some(({ task, atMs }) => task === 'monitor' && atMs > before),
        'the first poll at the new interval',
      );
    await this.cluster.started(server);
  }

  /**
   * As exactly as it can be, as on a machine that sets its clock by the network: Pacemaker has the times of guest nodes from their own
   * clocks.
   */
  async setClock(): Promise<void> {
    const { guest } = this.web;
    for (let tries = 0; tries < 5; tries += 1) {
      const behindMs = await this.#clockBehindMs();
      if (behindMs < mostBehindMs && behindMs > -mostAheadMs) return;
      // `date` knows whole seconds: it is called when one begins.
      const behindUs = Math.round(behindMs * 1e3);
      await guest.check(
        `set -- $(adjtimex | sed -n 's/^ *time.tv_u*sec: *//p')
us=$(($1 * 1000000 + $2 + ${behindUs}))
usleep $((1000000 - us % 1000000))
date -s @$((us / 1000000 + 1)) >/dev/null`,
      );
    }
    this.said.push(`the guest's clock could not be set exactly: the machine is busy`);
  }

  /** Of what runs here. */
  async versions(): Promise<readonly (readonly [string, string])[]> {
    const first = (text: string): string => text.split('\n')[0]?.trim() ?? '';
    return [
      ['cluster', first(await this.node.check('pacemakerd', '--version'))],
      ['guest', `kernel ${await this.web.guest.check('uname -r')}, 1 processor, 256 MiB`],
    ];
  }

  /** The last time that it was called for this since then. */
  called(task: string, sinceMs = 0): AgentCall | undefined {
    return this.calls.findLast((call) => call.task === task && call.atMs > sinceMs);
  }

  /** Waits until the server answers and is being polled again; the call for the last poll. */
  async settled(): Promise<AgentCall> {
    return this.until(() => {
      const start = this.called('start')?.atMs ?? 0;
      const polled = this.called('monitor', start);
      return this.changes.at(-1)?.answers === true ? polled : undefined;
    }, 'the web server and its poll');
  }

  /** Resolves with what `look` finds among what was noted; notes have the time they were taken, whenever they are looked at. */
  async until<T>(look: () => T | undefined | false, what: string, limitMs = patienceMs): Promise<T> {
    const deadline = performance.now() + limitMs;
    for (;;) {
      if (this.#broken !== undefined) throw this.#broken;
      for (const log of this.#logs) this.#read(log);
      const found = look();
      if (found !== undefined && found !== false) return found;
      if (performance.now() > deadline) throw new Error(`${what}: not within ${limitMs / 1e3} s`);
      await sleep(25);
    }
  }

  async #clockBehindMs(): Promise<number> {
    const seen: number[] = [];
    for (let tries = 0; tries < 3; tries += 1) {
      const output = await this.web.guest.check('adjtimex');
      const heard = now();
      const [, s, us] = /tv_sec: +(\d+)\s+time\.tv_usec: +(\d+)/.exec(output) ?? [];
      seen.push(heard - (Number(s) * 1e3 + Number(us) / 1e3));
    }
    return Math.min(...seen);
  }

  /** Stops asking for the page, or begins again. */
  async ask(wanted: boolean): Promise<void> {
    if (!wanted) {
      await end(this.#client);
      this.#client = undefined;
    } else
      this.#client ??= this.#start('client.ts', [this.web.address, '80'], (line) =>
        this.changes.push(JSON.parse(line) as Change),
      );
  }

  async close(): Promise<void> {
    await Promise.all([end(this.#client), end(this.#service)]);
    for (const { fd } of this.#logs) closeSync(fd);
    this.web.close();
    await this.cluster.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #prepare(): Promise<void> {
    await this.web.guest.check('touch /run/announce');
    this.#watchAgent();
    await this.ask(true);
    await this.until(() => this.changes.at(-1)?.answers, 'the web server');
  }

  /** Of what the agent writes into the kernel's log: the time that it is on the serial line, whole. */
  #watchAgent(): void {
    const { console } = this.web.guest;
    let position = console.position;
    const next = (): void => {
      console.waitFor(/httpd agent: (\w+)\n/, 2 ** 31 - 1, position).then(
        ({ 0: text, 1: task = '', index }) => {
          this.calls.push({ task, atMs: now() });
          position += index + text.length;
          next();
        },
        () => undefined, // closed
      );
    };
    next();
  }

  #read(log: Log): void {
    const chunk = Buffer.alloc(1 << 16);
    for (;;) {
      const bytes = readSync(log.fd, chunk, 0, chunk.length, log.at);
      if (bytes === 0) return;
      log.at += bytes;
      const lines = (log.rest + chunk.toString('latin1', 0, bytes)).split('\n');
      log.rest = lines.pop() ?? '';
      for (const line of lines) {
        const result = clusterResult(line, new Date());
        if (result?.resource === this.web.server) this.results.push(result);
      }
    }
  }

  #start(program: string, args: readonly string[], line: (line: string) => void): ChildProcess {
    const command = [process.execPath, join(import.meta.dirname, program), ...args];
    const child = this.node.spawn(command, { stdio: ['pipe', 'pipe', 'pipe'] });
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', line);
    createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (words) =>
      this.said.push(`${program}: ${words}`),
    );
    child.once('exit', (code, signal) => {
      if (code === 0) return;
      const words = this.said.slice(-10).join('\n');
      this.#broken ??= new Error(`${program} ended (${code ?? signal}): ${words}`);
    });
    return child;
  }
}

/** As an operator would have it, but that the same resource may be failed again a second later, not half a minute. */
const pacemaker = ({ name, process: comm, server }: WebGuest): PacemakerConfig => ({
  commands: { timeLimitMs: 10_000 },
  settings: {
    node: undefined,
    vms: {},
    cooldownMs: 1_000,
    callsPerMinute: 60,
    keepMs: 60_000,
    dumpMs: 60_000,
    rules: [
      {
        ...{ guest: name, events: ['crash', 'oom'], process: comm, resource: server, fields: {} },
        ...{ action: 'fail', secondSign: false, where: 'evaluation' },
      },
    ],
  },
});

/** Of one that ends with its standard input. */
async function end(child: ChildProcess | undefined): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.stdin?.end();
  const late = setTimeout(() => child.kill('SIGKILL'), 20_000);
  await gone;
  clearTimeout(late);
}
