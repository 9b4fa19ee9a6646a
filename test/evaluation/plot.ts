// SPDX-License-Identifier: Apache-2.0

/** docs/evaluation.svg: every crash as three dots on a logarithmic axis of time, in rows by experiment and mode. */

import { median } from '../harness/figure.ts';
import { type Crash, crashesOf, experiments, modes, type Results } from './results.ts';

interface Measure {
  readonly name: string;
  readonly className: string;
  readonly of: (crash: Crash) => number;
}

export const measures: readonly Measure[] = [
  { name: 'detected', className: 'a', of: ({ detectedMs }) => detectedMs },
  { name: 'recovery begins', className: 'b', of: ({ recoveringMs }) => recoveringMs },
  { name: 'answers again', className: 'c', of: ({ answeringMs }) => answeringMs },
];

const width = 900;
const left = 110;
const right = 24;
const top = 56;
const rowHeight = 18;
/** Between modes, and before an experiment. */
const modeGap = 14;
const experimentGap = 34;
const axisHeight = 44;
const dot = 3.2;
/** Of the axis, in ms. What is beyond is drawn at its end. */
const firstMs = 0.1;
const lastMs = 100_000;

/** The first colours are for whoever does not say whether the page is light or dark: they can be read on both. */
const style = `
text { font: 13px sans-serif; fill: #6e7781 }
.small { font-size: 11px }
.bold { font-weight: bold }
.grid { stroke: #8c959f; stroke-opacity: .35 }
.a { fill: #2f81f7; stroke: #2f81f7 } .b { fill: #d2691e; stroke: #d2691e } .c { fill: #2da44e; stroke: #2da44e }
circle { fill-opacity: .45; stroke-opacity: .8; stroke-width: .6 }
.median { stroke-width: 2.4 }
@media (prefers-color-scheme: light) { text { fill: #24292f } .small { fill: #57606a } }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #9198a1 } }`;

export function plot(results: Pick<Results, 'crashes'>): string {
  const parts: string[] = [];
  let y = top;
  for (const experiment of experiments) {
    parts.push(`<text class="bold" x="8" y="${y + 4}">${experiment}</text>`);
    y += 14;
    for (const mode of modes) {
      const crashes = crashesOf(results, mode, experiment);
      parts.push(`<text x="${left - 12}" y="${y + rowHeight * 1.5 + 4}" text-anchor="end">${mode}</text>`);
      for (const measure of measures) {
        parts.push(...row(crashes.map(measure.of), measure, `${experiment}, ${mode}`, y + rowHeight / 2));
        y += rowHeight;
      }
      y += modeGap;
    }
    y += experimentGap - modeGap;
  }
  const bottom = y - experimentGap + 6;
  const height = bottom + axisHeight;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="Time from the death of the web server to its detection, to the beginning of the recovery, and to the first answer, by mode">
<style>${style}
</style>
${legend()}
${axis(bottom)}
${parts.join('\n')}
</svg>
`;
}

/** Where a time is on the axis. */
export function xOf(ms: number): number {
  const share = Math.log(Math.min(Math.max(ms, firstMs), lastMs) / firstMs) / Math.log(lastMs / firstMs);
  return left + share * (width - left - right);
}

function row(values: readonly number[], { className, name }: Measure, where: string, y: number): string[] {
  if (values.length === 0) return [];
  const dots = values.map((value, index) => {
    // Dots that would hide each other go up and down in turns.
    const aside = ((index % 5) - 2) * 1.6;
    return `<circle cx="${xOf(value).toFixed(1)}" cy="${(y + aside).toFixed(1)}" r="${dot}"/>`;
  });
  const middle = median(values);
  const x = xOf(middle).toFixed(1);
  const line = `<line class="median" x1="${x}" x2="${x}" y1="${y - rowHeight / 2 + 1}" y2="${y + rowHeight / 2 - 1}"/>`;
  const title = `${where}: ${name}, median ${timeText(middle)}`;
  return [`<g class="${className}"><title>${title}</title>${dots.join('')}${line}</g>`];
}

function legend(): string {
  const entries = measures.map(
    ({ name, className }, index) =>
      `<circle class="${className}" cx="${left + index * 150}" cy="18" r="${dot + 1}"/><text x="${left + 10 + index * 150}" y="22">${name}</text>`,
  );
  return [
    ...entries,
    `<text class="small" x="${left + 450}" y="22">each dot a crash, each bar a median</text>`,
  ].join('');
}

function axis(bottom: number): string {
  const lines: string[] = [];
  for (let ms = firstMs; ms <= lastMs * 1.001; ms *= 10) {
    const x = xOf(ms).toFixed(1);
    lines.push(
      `<line class="grid" x1="${x}" x2="${x}" y1="34" y2="${bottom}"/><text class="small" x="${x}" y="${bottom + 16}" text-anchor="middle">${timeText(ms)}</text>`,
    );
  }
  const middle = (left + width - right) / 2;
  lines.push(
    `<text class="small" x="${middle}" y="${bottom + 34}" text-anchor="middle">time since the death of the web server in its guest, logarithmic</text>`,
  );
  return lines.join('\n');
}

/** Milliseconds in a unit that suits them, with three digits. */
export function timeText(ms: number): string {
  const [value, unit] = Math.abs(ms) < 1_000 ? [ms, 'ms'] : [ms / 1e3, 's'];
  return `${Number(value.toPrecision(3))} ${unit}`;
}
