// SPDX-License-Identifier: Apache-2.0

/** What the demo prints: steps as they go, events as they arrive, the losses, a summary. */

import type { RelayView } from '../api/view.ts';
import type { Machine } from '../demo/machine.ts';
import { messageOf } from '../error.ts';
import { printEvent, type StreamedEvent } from './event-text.ts';
import { Terminal } from './terminal.ts';

const spinnerFrames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const spinnerMs = 100;

export class DemoReport {
  readonly #json: boolean;
  readonly #terminal = new Terminal();
  readonly #startedMs = performance.now();
  readonly #counts = new Map<string, number>();
  readonly #latenciesUs: number[] = [];
  #losses: RelayView | undefined;
  #spinning = '';
  #spinner: NodeJS.Timeout | undefined;
  #frame = 0;

  constructor(json: boolean) {
    this.#json = json;
  }

  /** Run one step; `detail` tells what was achieved meanwhile. */
  async step<T>(name: string, work: (detail: (text: string) => void) => Promise<T>): Promise<T> {
    const startedMs = performance.now();
    const details: string[] = [];
    this.#spin(name);
    const finish = (ok: boolean, reason: string): void => {
      this.#stopSpinning();
      const tookMs = performance.now() - startedMs;
      if (this.#json) {
        this.#terminal.jsonLine({
          type: 'step',
          step: name,
          ok,
          took_ms: Math.round(tookMs),
          details,
          ...(ok ? {} : { reason }),
        });
        return;
      }
      const mark = ok ? this.#terminal.style('green', '✓') : this.#terminal.style('red', '✗');
      this.#terminal.line(
        `${mark} ${this.#terminal.style('bold', name)} ${this.#terminal.style('dim', `${(tookMs / 1000).toFixed(2)} s`)}`,
      );
      for (const detail of details) this.#terminal.paragraph(detail, 4);
    };
    try {
      const result = await work((text) => {
        details.push(text);
      });
      finish(true, '');
      return result;
    } catch (thrown) {
      finish(false, messageOf(thrown));
      throw thrown;
    }
  }

  event(event: Readonly<Record<string, unknown>>): void {
    const streamed = event as unknown as StreamedEvent;
    const name = `${streamed.probe}.${streamed.event}`;
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
    this.#latenciesUs.push(streamed.latency_us);
    if (this.#json) {
      this.#terminal.jsonLine(event);
      return;
    }
    this.#clearLine();
    printEvent(this.#terminal, streamed);
  }

  losses(relay: RelayView): void {
    this.#losses = relay;
  }

  summary(): void {
    const tookMs = performance.now() - this.#startedMs;
    const latencies = this.#latenciesUs.toSorted((a, b) => a - b);
    const medianUs = latencies[latencies.length >> 1] ?? 0;
    const losses = this.#losses;
    if (this.#json) {
      this.#terminal.jsonLine({
        type: 'summary',
        took_ms: Math.round(tookMs),
        events: Object.fromEntries(this.#counts),
        latency_median_us: medianUs,
        relay: losses,
      });
      return;
    }
    this.#terminal.line();
    if (losses !== undefined) {
      this.#terminal.table(
        [
          { title: 'DELIVERED', align: 'right' },
          { title: 'LOST (GUEST)', align: 'right' },
          { title: 'GAPS (HOST)', align: 'right' },
          { title: 'UNDECODABLE', align: 'right' },
          { title: 'BROKEN RINGS', align: 'right' },
        ],
        [[losses.delivered, losses.lost, losses.gaps, losses.undecodable, losses.quarantined].map(String)],
      );
      this.#terminal.line();
    }
    const events = [...this.#counts].map(([name, count]) => `${count} × ${name}`).join(', ');
    this.#terminal.paragraph(
      `${events}; median latency ${(medianUs / 1000).toFixed(2)} ms; ${(tookMs / 1000).toFixed(1)} s in all.`,
    );
  }

  kept(machine: Machine): void {
    const facts = { pid: machine.pid, qmp: machine.qmpPath, terminal: machine.terminalPath };
    if (this.#json) {
      this.#terminal.jsonLine({ type: 'kept', ...facts });
      return;
    }
    this.#terminal.line();
    this.#terminal.line(`The guest runs on (process ${facts.pid}). To talk to it:`);
    this.#terminal.line(`  vesper serve --qemu demo=${facts.qmp}`);
    this.#terminal.line('  vesper attach demo signal oom      # in another terminal');
    this.#terminal.line('  vesper events -f');
    this.#terminal.line(
      `  socat -,rawer,escape=0x1d UNIX:${facts.terminal}   # a shell in it; leave with Ctrl-]`,
    );
    this.#terminal.line(`  kill ${facts.pid}      # ends it`);
  }

  #spin(name: string): void {
    if (this.#json || !this.#terminal.colour) return;
    this.#spinning = name;
    this.#spinner = setInterval(() => {
      this.#frame = (this.#frame + 1) % spinnerFrames.length;
      process.stdout.write(
        `\r${this.#terminal.style('cyan', spinnerFrames[this.#frame] ?? '')} ${this.#spinning}`,
      );
    }, spinnerMs);
  }

  #stopSpinning(): void {
    clearInterval(this.#spinner);
    this.#clearLine();
    this.#spinning = '';
  }

  #clearLine(): void {
    if (this.#spinning !== '') process.stdout.write('\r\x1b[K');
  }
}
