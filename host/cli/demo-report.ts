// SPDX-License-Identifier: Apache-2.0

/** What the demo prints: steps as they go, events as they arrive, the losses, a summary. */

import { dirname } from 'node:path';
import type { RelayView } from '../api/view.ts';
import type { Machine } from '../demo/machine.ts';
import { printEvent, type StreamedEvent } from './event-text.ts';
import { StepReport } from './step-report.ts';
import { Terminal } from './terminal.ts';

export class DemoReport {
  readonly #json: boolean;
  readonly #terminal = new Terminal();
  readonly #startedMs = performance.now();
  readonly #counts = new Map<string, number>();
  readonly #latenciesUs: number[] = [];
  readonly #steps: StepReport;
  #losses: RelayView | undefined;

  constructor(json: boolean) {
    this.#json = json;
    this.#steps = new StepReport(json, this.#terminal);
  }

  step<T>(name: string, work: (detail: (text: string) => void) => Promise<T>): Promise<T> {
    return this.#steps.step(name, work);
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
    this.#steps.clearLine();
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
    this.#terminal.line(`  kill ${facts.pid}; rm -r ${dirname(facts.qmp)}   # ends it`);
  }
}
