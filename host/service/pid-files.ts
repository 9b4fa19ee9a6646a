// SPDX-License-Identifier: Apache-2.0

/**
 * The numbers of processes in files of guests, which rules for the cluster are about. When a process died it is too late to ask: they
 * are read ahead, when a session begins, every half a minute, and more often for a while after one has died.
 */

import { messageOf } from '../error.ts';
import type { Logger } from '../log.ts';
import type { PacemakerSink } from '../sink/pacemaker/sink.ts';
import type { ManagedGuest } from './managed-guest.ts';

const everyMs = 30_000;
const hurriedMs = 1_000;
const hurriesMs = 20_000;
const mostBytes = 64;
const longestReason = 300;

interface Watched {
  readonly guest: ManagedGuest;
  /** Of the boot that is watched. */
  readonly bootId: string;
  timer: NodeJS.Timeout | undefined;
  hurriedUntil: number;
  reading: boolean;
  /** By file: why it cannot be read. */
  readonly problems: Map<string, string>;
}

export class PidFiles {
  readonly #sink: PacemakerSink;
  readonly #log: Logger;
  /** By UUID. */
  readonly #watched = new Map<string, Watched>();

  constructor(sink: PacemakerSink, log: Logger) {
    this.#sink = sink;
    this.#log = log;
  }

  /** Why a process is not known, for people; undefined: all are, or nobody asks. */
  get problem(): string | undefined {
    for (const { problems } of this.#watched.values())
      for (const problem of problems.values()) return problem;
    return undefined;
  }

  /** A session of the guest began or ended, or something else about it changed. */
  look(guest: ManagedGuest): void {
    const { uuid } = guest.machine;
    const bootId = guest.session?.incarnation.bootId;
    const known = this.#watched.get(uuid);
    if (known?.guest === guest && known.bootId === bootId) return;
    this.forget(uuid);
    if (bootId === undefined) return;
    const watched: Watched = {
      ...{ guest, bootId, timer: undefined, hurriedUntil: 0, reading: false },
      problems: new Map(),
    };
    this.#watched.set(uuid, watched);
    void this.#read(watched);
  }

  /** A process died; its successor writes its own number soon. */
  hurry(uuid: string): void {
    const watched = this.#watched.get(uuid);
    if (watched === undefined) return;
    watched.hurriedUntil = Date.now() + hurriesMs;
    if (!watched.reading) this.#schedule(watched);
  }

  /** The rules are others. */
  reread(): void {
    for (const watched of this.#watched.values()) if (!watched.reading) void this.#read(watched);
  }

  forget(uuid: string): void {
    clearTimeout(this.#watched.get(uuid)?.timer);
    this.#watched.delete(uuid);
  }

  close(): void {
    for (const uuid of [...this.#watched.keys()]) this.forget(uuid);
  }

  #schedule(watched: Watched): void {
    clearTimeout(watched.timer);
    const pauseMs = Date.now() < watched.hurriedUntil ? hurriedMs : everyMs;
    watched.timer = setTimeout(() => void this.#read(watched), pauseMs);
    watched.timer.unref();
  }

  async #read(watched: Watched): Promise<void> {
    const { machine } = watched.guest;
    const current = () => this.#watched.get(machine.uuid) === watched;
    clearTimeout(watched.timer);
    watched.reading = true;
    const wanted = this.#sink.pidFiles(machine.uuid, machine.name);
    for (const file of watched.problems.keys()) if (!wanted.includes(file)) watched.problems.delete(file);
    for (const file of wanted) {
      // A paused machine answers nobody, and nothing in it changes.
      if (machine.state !== 'running') break;
      let pid: number | undefined;
      try {
        pid = await pidIn(watched.guest, file);
        watched.problems.delete(file);
      } catch (thrown) {
        if (current()) this.#failed(watched, file, messageOf(thrown));
      }
      if (!current()) return;
      this.#sink.pidRead(machine.uuid, machine.name, file, pid);
    }
    watched.reading = false;
    this.#schedule(watched);
  }

  #failed({ guest, problems }: Watched, file: string, reason: string): void {
    // The guest's agent has a say in it.
    const said = reason.slice(0, longestReason).replaceAll(/[^\x20-\x7e]/g, '?');
    const problem = `${guest.machine.name}: the process of ${file} is not known: ${said}`;
    if (problems.get(file) === problem) return;
    problems.set(file, problem);
    this.#log.warn({ guest: guest.machine.name }, problem);
  }
}

async function pidIn({ machine }: ManagedGuest, file: string): Promise<number> {
  if (machine.readGuestFile === undefined) throw new Error('its provider has no way to a guest agent');
  const text = Buffer.from(await machine.readGuestFile(file, mostBytes)).toString('latin1');
  const [, digits] = /^\s*([1-9]\d{0,9})\s*(?:\n|$)/.exec(text) ?? [];
  if (digits === undefined) throw new Error('no number of a process stands in it');
  return Number(digits);
}
