// SPDX-License-Identifier: Apache-2.0

/** A real Prometheus that scrapes one address every second, and promtool. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** What `promtool check metrics` says of a page; empty: nothing to complain of. */
export function promtoolComplaints(page: string): string {
  const { status, stdout, stderr, error } = spawnSync('promtool', ['check', 'metrics'], { input: page });
  if (error !== undefined) throw error;
  return status === 0 ? '' : `status ${status}: ${stdout.toString()}${stderr.toString()}`;
}

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export class Prometheus implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #directory: string;
  #url = '';
  log = '';

  private constructor(child: ChildProcess, directory: string) {
    this.#child = child;
    this.#directory = directory;
  }

  /** Resolves when it answers queries. `target` is `HOST:PORT`. */
  static async start(target: string): Promise<Prometheus> {
    const directory = mkdtempSync(join(tmpdir(), 'vesper-prometheus-'));
    const config = join(directory, 'prometheus.yml');
    writeFileSync(
      config,
      `global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: vesper, static_configs: [{targets: ["${target}"]}]}]
`,
    );
    const child = spawn(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL'],
        'prometheus',
        `--config.file=${config}`,
        `--storage.tsdb.path=${join(directory, 'data')}`,
        '--web.listen-address=127.0.0.1:0',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const prometheus = new Prometheus(child, directory);
    try {
      await prometheus.#listening();
    } catch (thrown) {
      await prometheus.close();
      throw thrown;
    }
    return prometheus;
  }

  /** An instant query. */
  async query(expression: string): Promise<readonly Sample[]> {
    const answer = await fetch(`${this.#url}/api/v1/query?${new URLSearchParams({ query: expression })}`);
    const { status, error, data } = (await answer.json()) as {
      readonly status: string;
      readonly error?: string;
      readonly data?: {
        readonly result: readonly { metric: Record<string, string>; value: readonly [number, string] }[];
      };
    };
    if (status !== 'success' || data === undefined) throw new Error(`${expression}: ${error}`);
    return data.result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
  }

  /** Asks until `holds` is content with the answer. */
  async until(
    expression: string,
    holds: (samples: readonly Sample[]) => boolean,
    timeLimitMs = 90_000,
  ): Promise<readonly Sample[]> {
    const deadline = performance.now() + timeLimitMs;
    for (;;) {
      const samples = await this.query(expression);
      if (holds(samples)) return samples;
      if (performance.now() > deadline)
        throw new Error(`${expression} did not come to it: ${JSON.stringify(samples)}`);
      await new Promise((done) => setTimeout(done, 200));
    }
  }

  async close(): Promise<void> {
    const child = this.#child;
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    }
    rmSync(this.#directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #listening(): Promise<void> {
    const listening = Promise.withResolvers<string>();
    const ready = Promise.withResolvers<void>();
    createInterface({ input: this.#child.stderr as NodeJS.ReadableStream }).on('line', (line) => {
      this.log += `${line}\n`;
      const [, address] = /msg="Listening on" address=(\S+)/.exec(line) ?? [];
      if (address !== undefined) listening.resolve(address);
      if (line.includes('Server is ready')) ready.resolve();
    });
    const failed = new Promise<never>((_, reject) => {
      this.#child.once('error', reject);
      this.#child.once('exit', (code, signal) =>
        reject(new Error(`prometheus ended (${code ?? signal}): ${this.log}`)),
      );
    });
    failed.catch(() => undefined);
    this.#url = `http://${await Promise.race([listening.promise, failed])}`;
    await Promise.race([ready.promise, failed]);
  }
}
