// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ApiClient } from '../../host/api/client.ts';
import { apiSocketPath } from '../../host/service/config.ts';
import type { ClusterNode } from './cluster-node.ts';
import { MetricsPage } from './metrics-page.ts';
import { repository } from './rig.ts';

const startLimitMs = 60_000;

/** `vesper serve` on a node of a cluster, as its administrator has it: root, with a configuration, beside the node's libvirtd. */
export class NodeService {
  readonly node: ClusterNode;
  readonly api: ApiClient;
  /** What it wrote since it was started, by all that ran. */
  log = '';
  readonly #directory: string;
  #child: ChildProcess | undefined;

  constructor(node: ClusterNode, configuration: string) {
    this.node = node;
    this.#directory = join(node.directory, 'vesper');
    mkdirSync(this.#directory);
    writeFileSync(join(this.#directory, 'vesper.yaml'), configuration);
    this.api = new ApiClient(apiSocketPath(this.#directory));
  }

  /** Also again, after `killWhenItSays`. */
  async start(): Promise<void> {
    const known = this.log.length;
    const [program = '', ...before] = this.node.prefix;
    const file = (name: string) => join(this.#directory, name);
    const child = spawn(program, [...before, process.execPath, join(repository, 'host/main.ts'), 'serve'], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        VESPER_RUN_DIR: this.#directory,
        VESPER_STATE_DIR: file('state'),
        VESPER_CONFIG: file('vesper.yaml'),
      },
    });
    this.#child = child;
    child.stderr.on('data', (chunk: Buffer) => (this.log += chunk.toString()));
    await this.#until(() => this.log.slice(known).includes('listening on'), 'the service');
  }

  /** Kills it with SIGKILL as soon as it has said something that matches; returns when it is gone. */
  async killWhenItSays(pattern: RegExp, act: () => Promise<unknown>): Promise<void> {
    const child = this.#child;
    if (child === undefined) throw new Error(`no service runs on ${this.node.name}`);
    const known = this.log.length;
    const gone = once(child, 'close');
    // nsenter waits for it in its parent.
    const own = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim());
    const look = () => {
      if (!pattern.test(this.log.slice(known))) return;
      child.stderr?.off('data', look);
      process.kill(own, 'SIGKILL');
    };
    child.stderr?.on('data', look);
    await act();
    await gone;
    this.#child = undefined;
  }

  async page(): Promise<MetricsPage> {
    return new MetricsPage(await this.api.metrics());
  }

  /** What the cluster is owed, as it is written down. */
  get owed(): readonly Readonly<Record<string, unknown>>[] {
    const ledger = readFileSync(join(this.#directory, 'state', 'pacemaker.json'), 'utf8');
    return (JSON.parse(ledger) as { readonly owed: readonly Readonly<Record<string, unknown>>[] }).owed;
  }

  async #until(holds: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + startLimitMs;
    while (!holds()) {
      if (performance.now() > deadline || this.#child?.exitCode !== null)
        throw new Error(`${what} on ${this.node.name}: not there\n${this.log}`);
      await new Promise((done) => setTimeout(done, 20));
    }
  }
}
