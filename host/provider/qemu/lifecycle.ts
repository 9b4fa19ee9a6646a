// SPDX-License-Identifier: Apache-2.0

/** From QEMU's events to what happened to the machine, each told once. */

import type { LifecycleEvent, MachineState } from '../provider.ts';
import type { QmpEvent } from './qmp.ts';

/** By ShutdownCause of QEMU's run-state.json. */
const shutdownReasons: Readonly<Record<string, string>> = {
  'host-error': 'ended by QEMU after an error of the host',
  'host-qmp-quit': 'ended by the QMP command quit',
  'host-qmp-system-reset': 'ended by a reset, as QEMU was started with -no-reboot',
  'host-signal': 'ended by a signal to QEMU',
  'host-ui': 'ended by closing its window',
  'guest-shutdown': 'shut down by the guest',
  'guest-reset': 'rebooted by the guest, and QEMU was started with -no-reboot',
  'guest-panic': 'its kernel panicked, and QEMU was told to end then',
  'subsystem-reset': 'ended by a reset of a subsystem',
  'snapshot-load': 'ended by loading a snapshot',
};

/** RunState of QEMU's run-state.json. */
export function stateOf(status: string): MachineState {
  if (status === 'running') return 'running';
  return status === 'shutdown' ? 'stopped' : 'paused';
}

/** Resets closer to each other than this are one: firmware and kernel may each ask for theirs. */
const oneResetMs = 500;

export class Lifecycle {
  #state: MachineState;
  #panicked = false;
  #resetAt = Number.NEGATIVE_INFINITY;

  constructor(state: MachineState) {
    this.#state = state;
  }

  get state(): MachineState {
    return this.#state;
  }

  /** What an event of QEMU means, undefined where it is nothing or was told already. */
  next({ name, data }: QmpEvent, nowMs = performance.now()): LifecycleEvent | undefined {
    switch (name) {
      case 'SHUTDOWN':
        return this.#stopped(shutdownReasons[String(data['reason'])] ?? `ended: ${String(data['reason'])}`);
      case 'RESET':
        return this.#reset(nowMs);
      case 'STOP':
        return this.#paused();
      case 'RESUME':
        return this.#resumed();
      case 'GUEST_PANICKED':
        return this.#panic();
      case 'GUEST_CRASHLOADED':
        return { kind: 'dumping' };
      default:
        return undefined;
    }
  }

  /** The connection ended: QEMU is gone. */
  gone(): LifecycleEvent | undefined {
    return this.#stopped('QEMU was killed or crashed');
  }

  #stopped(reason: string): LifecycleEvent | undefined {
    if (this.#state === 'stopped') return undefined;
    this.#state = 'stopped';
    return { kind: 'stopped', reason };
  }

  #reset(nowMs: number): LifecycleEvent | undefined {
    this.#panicked = false;
    const again = nowMs - this.#resetAt < oneResetMs;
    this.#resetAt = nowMs;
    return again || this.#state === 'stopped' ? undefined : { kind: 'rebooted' };
  }

  #paused(): LifecycleEvent | undefined {
    // With -no-shutdown QEMU stops the CPUs of a machine that has ended.
    if (this.#state !== 'running') return undefined;
    this.#state = 'paused';
    return this.#panicked ? undefined : { kind: 'paused' };
  }

  #resumed(): LifecycleEvent | undefined {
    const before = this.#state;
    if (before === 'running') return undefined;
    this.#state = 'running';
    return before === 'stopped' ? { kind: 'started' } : { kind: 'resumed' };
  }

  #panic(): LifecycleEvent | undefined {
    if (this.#panicked) return undefined;
    this.#panicked = true;
    return { kind: 'panicked' };
  }
}
