// SPDX-License-Identifier: Apache-2.0

/** Tests of one row, made once for events of one declaration. Undefined where the declaration lacks the field that is asked for. */

import type { PayloadRows } from '../../relay/batch.ts';
import type { EventDecoder, FieldDecoder } from '../../relay/decoder.ts';
import { globExpression, isGlob } from '../glob.ts';

export type RowTest = (rows: PayloadRows, row: number) => boolean;

/** Signals by which a process dies of what it did itself: SIGILL, TRAP, ABRT, BUS, FPE, SEGV, SYS. */
const faults: ReadonlySet<number> = new Set([4, 5, 6, 7, 8, 11, 31]);
const sigkill = 9;
/** What a guest's userspace runs when it goes down, beside its process 1; comm has 15 characters. */
const shutdownPrograms: ReadonlySet<string> = new Set(['killall5', 'systemd-shutdow']);

/** A process died, and nobody who ends processes in an orderly way made it. */
export function crashTest(decoder: EventDecoder): RowTest | undefined {
  const signal = decoder.field('signal');
  const senderProcess = decoder.field('sender_tgid');
  const senderName = decoder.field('sender_comm');
  const kernel = decoder.field('kernel');
  if (signal === undefined) return undefined;
  return (rows, row) => {
    const number = Number(signal.read(rows, row));
    if (number !== sigkill) return faults.has(number);
    // The OOM killer's is the kernel's, whoever was running: also process 1.
    if (kernel !== undefined && Number(kernel.read(rows, row)) === 1) return true;
    return (
      Number(senderProcess?.read(rows, row)) !== 1 &&
      !shutdownPrograms.has(String(senderName?.read(rows, row)))
    );
  };
}

/** The field that names the process an event is about, rather than another one that had a part in it. */
export const processField = (decoder: EventDecoder): FieldDecoder | undefined =>
  decoder.field('comm') ??
  decoder.field('target_comm') ??
  decoder.fields.find(({ declaration }) => declaration.role === 'comm');

export function processTest(decoder: EventDecoder, pattern: string): RowTest | undefined {
  const field = processField(decoder);
  if (field === undefined) return undefined;
  // The kernel cuts the names of processes, and so has to be what they are compared with.
  return textTest(field, isGlob(pattern) ? pattern : pattern.slice(0, field.declaration.size - 1));
}

const cgroupField = (decoder: EventDecoder): FieldDecoder | undefined =>
  decoder.field('victim_memcg') ?? decoder.field('cgroup') ?? decoder.field('memcg');

export function cgroupTest(decoder: EventDecoder, pattern: string): RowTest | undefined {
  const field = cgroupField(decoder);
  return field && textTest(field, pattern.includes('/') ? pattern : `*/${pattern}`);
}

/** Some part of the path is the unit; what it starts may be in cgroups within it. Without a type it is a service, as for systemctl. */
export function unitTest(decoder: EventDecoder, pattern: string): RowTest | undefined {
  const field = cgroupField(decoder);
  if (field === undefined) return undefined;
  const unit = /\.[a-z]+$/.test(pattern) ? pattern : `${pattern}.service`;
  if (!isGlob(unit)) return (rows, row) => String(field.read(rows, row)).split('/').includes(unit);
  const expression = globExpression(unit);
  return (rows, row) =>
    String(field.read(rows, row))
      .split('/')
      .some((part) => expression.test(part));
}

/** The process is the one of a pid file; not where it is not known which that is. */
export function pidTest(decoder: EventDecoder, pid: () => number | undefined): RowTest | undefined {
  const field = decoder.field('pid') ?? decoder.field('target_tgid');
  return field && ((rows, row) => Number(field.read(rows, row)) === pid());
}

export function fieldTest(decoder: EventDecoder, name: string, shown: string): RowTest | undefined {
  const field = decoder.field(name);
  if (field === undefined) return undefined;
  if (field.declaration.type === 'text') return textTest(field, shown);
  return (rows, row) => String(field.show(rows, row)) === shown;
}

function textTest(field: FieldDecoder, pattern: string): RowTest {
  if (isGlob(pattern)) {
    const expression = globExpression(pattern);
    return (rows, row) => expression.test(String(field.read(rows, row)));
  }
  const { offset, size } = field.declaration;
  const wanted = Buffer.from(pattern);
  return (rows, row) => {
    const from = (rows.payloadOffset[row] as number) + offset;
    for (let at = 0; at < wanted.length; at += 1) if (rows.arena[from + at] !== wanted[at]) return false;
    return wanted.length === size || (wanted.length < size && rows.arena[from + wanted.length] === 0);
  };
}
