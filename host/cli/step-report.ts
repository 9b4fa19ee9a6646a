// SPDX-License-Identifier: Apache-2.0

/** How a command tells of its steps: a line each when it is done, or an object each for machines. */

import { messageOf } from '../error.ts';
import type { Terminal } from './terminal.ts';

const spinnerFrames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const spinnerMs = 100;

export class StepReport {
  readonly #json: boolean;
  readonly #terminal: Terminal;
  #spinning = '';
  #spinner: NodeJS.Timeout | undefined;
  #frame = 0;

  constructor(json: boolean, terminal: Terminal) {
    this.#json = json;
    this.#terminal = terminal;
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
    this.clearLine();
    this.#spinning = '';
  }

  /** Whatever else is printed while a step runs begins with this. */
  clearLine(): void {
    if (this.#spinning !== '') process.stdout.write('\r\x1b[K');
  }
}
