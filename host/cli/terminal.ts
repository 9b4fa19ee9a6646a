// SPDX-License-Identifier: Apache-2.0

/**
 * How commands print. A terminal gets colour and lines that fit its width; a pipe gets the same text whole and plain.
 * What came from a guest or from somebody's module goes through `printable` first.
 */

import { stripVTControlCharacters, styleText } from 'node:util';
import { displayWidth, padded, wrapped } from './width.ts';

export type Style = 'bold' | 'dim' | 'red' | 'yellow' | 'green' | 'cyan';

/** Where a terminal prints: process.stdout, or anything that takes text. */
export interface Output {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
  /** On a terminal that is too narrow, this column is broken into lines; the others stay whole. */
  readonly flexible?: boolean;
}

export interface TableOptions {
  /** Blanks before each line. */
  readonly indent?: number;
}

/** The least a flexible column is narrowed to. */
const flexibleMin = 16;
const gap = 2;

export class Terminal {
  readonly colour: boolean;
  /** Columns of the terminal; Infinity for a pipe: nothing is broken there. */
  readonly width: number;
  readonly #output: Output;

  constructor(output: Output = process.stdout, environment: NodeJS.ProcessEnv = process.env) {
    const { NO_COLOR: plain, TERM: kind } = environment;
    this.#output = output;
    this.colour = output.isTTY === true && !plain && kind !== 'dumb';
    this.width = output.isTTY === true ? output.columns || 80 : Number.POSITIVE_INFINITY;
  }

  style(style: Style | readonly Style[], text: string): string {
    return this.colour ? styleText(style as Style[], text, { validateStream: false }) : text;
  }

  /** One line, as it is. */
  line(text = ''): void {
    this.#output.write(`${this.colour ? text : stripVTControlCharacters(text)}\n`);
  }

  /** Running text, broken at blanks where the terminal ends. */
  paragraph(text: string, indent = 0): void {
    const margin = ' '.repeat(indent);
    for (const part of wrapped(text, this.width - indent)) this.line(margin + part);
  }

  /** The result of `--json`: one document. */
  json(value: unknown): void {
    this.#output.write(`${JSON.stringify(value, jsonValue, 2)}\n`);
  }

  /** One line of a stream of documents (NDJSON). */
  jsonLine(value: unknown): void {
    this.#output.write(`${JSON.stringify(value, jsonValue)}\n`);
  }

  /** Aligned columns under their titles. Cells may carry styles, but for those of flexible columns. */
  table(columns: readonly Column[], rows: readonly (readonly string[])[], options: TableOptions = {}): void {
    const indent = options.indent ?? 0;
    const titles = columns.map((column) => this.style('dim', column.title));
    const widths = columns.map((column, at) =>
      rows.reduce((most, row) => Math.max(most, displayWidth(row[at] ?? '')), displayWidth(column.title)),
    );
    this.#narrow(columns, widths, this.width - indent);
    for (const row of [titles, ...rows]) {
      const cells = columns.map((column, at) => this.#cell(column, row[at] ?? '', widths[at] as number));
      const height = Math.max(...cells.map((cell) => cell.length));
      for (let part = 0; part < height; part++) {
        const line = cells.map((cell, at) =>
          padded(cell[part] ?? '', widths[at] as number, columns[at]?.align),
        );
        this.line(' '.repeat(indent) + line.join(' '.repeat(gap)).trimEnd());
      }
    }
  }

  #cell(column: Column, text: string, width: number): readonly string[] {
    return column.flexible === true && displayWidth(text) > width ? wrapped(text, width) : [text];
  }

  #narrow(columns: readonly Column[], widths: number[], available: number): void {
    const flexible = columns.flatMap((column, at) => (column.flexible === true ? [at] : []));
    const total = () => widths.reduce((sum, width) => sum + width, gap * (widths.length - 1));
    while (total() > available) {
      const widest = flexible.reduce(
        (best, at) => ((widths[at] ?? 0) > (widths[best] ?? 0) ? at : best),
        flexible[0] ?? -1,
      );
      const width = widths[widest] ?? 0;
      if (width <= flexibleMin) return;
      widths[widest] = width - 1;
    }
  }
}

/** Control characters and those that turn the direction of text, shown as `\xNN` or `\u{NNNN}`: safe to print. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (c) => {
    const hex = c.charCodeAt(0).toString(16);
    return hex.length > 2 ? `\\u{${hex}}` : `\\x${hex.padStart(2, '0')}`;
  });
}

/** 64-bit numbers are strings in JSON: a double would not hold them all. Bytes are hexadecimal. */
function jsonValue(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  return value;
}
