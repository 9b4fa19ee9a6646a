// SPDX-License-Identifier: Apache-2.0

/** One event as a line for people: when, guest, what, the fields that say something, how late and how sure. */

import type { Severity } from '../probe/declaration.ts';
import { printable, type Style, type Terminal } from './terminal.ts';

/** An event as the API streams it (host/guest/event.ts, eventJson). */
export interface StreamedEvent {
  readonly type: 'event';
  /** To go on after it. */
  readonly id: string;
  readonly guest: string;
  readonly probe: string;
  readonly event: string;
  readonly severity: Severity;
  readonly host_time: string;
  readonly host_time_error_us: number | null;
  readonly latency_us: number;
  readonly guest_time_ns: number;
  readonly fields: Readonly<Record<string, number | string>>;
}

const severityStyle: Readonly<Record<Severity, Style | undefined>> = {
  debug: 'dim',
  info: undefined,
  notice: 'cyan',
  warning: 'yellow',
  critical: 'red',
};

export function printEvent(terminal: Terminal, event: StreamedEvent): void {
  const style = severityStyle[event.severity];
  const name = printable(`${event.probe}.${event.event}`);
  const fields = Object.entries(event.fields)
    .filter(([, value]) => value !== '')
    .map(([field, value]) => `${printable(field)}=${quoted(String(value))}`)
    .join(' ');
  const time = event.host_time.slice(11, 26);
  const head = `${terminal.style('dim', time)} ${printable(event.guest)} ${style === undefined ? name : terminal.style(style, name)}`;
  const timing = `±${bound(event.host_time_error_us)}, guest ${seconds(event.guest_time_ns)}, +${milliseconds(event.latency_us)}`;
  terminal.line(`${head} ${terminal.style('dim', timing)}`);
  terminal.paragraph(fields, 4);
}

const quoted = (value: string): string => (/^[\x21-\x7e]+$/.test(value) ? value : `"${printable(value)}"`);

const seconds = (ns: number): string => `${(ns / 1e9).toFixed(6)} s`;
const milliseconds = (us: number): string => `${(us / 1000).toFixed(2)} ms`;
/** Rounded up: no time is exact. */
const microseconds = (us: number): string => `${Math.max(1, Math.ceil(us))} µs`;

function bound(us: number | null): string {
  if (us === null) return 'unknown';
  return us < 100 ? microseconds(us) : milliseconds(us);
}
