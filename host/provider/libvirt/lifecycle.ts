// SPDX-License-Identifier: Apache-2.0

/** From libvirt's events to what happened to the machine, each told once. */

import type { LifecycleEvent, MachineState } from '../provider.ts';
import type { DomainEvent } from './event.ts';
import type { DomainState } from './native.ts';

/** By the detail of the event `stopped`. */
const stopReasons: Readonly<Record<string, string>> = {
  shutdown: 'shut down',
  destroyed: 'ended by libvirt (virsh destroy, or its configuration says so)',
  crashed: 'its kernel panicked, and it was told to end then',
  migrated: 'migrated to another host',
  saved: 'saved; it goes on when it is restored',
  failed: 'QEMU was killed or crashed',
  'from-snapshot': 'reverted to a snapshot of a machine that does not run',
};

/** The details whose guests are not over. */
const elsewhere: ReadonlySet<string> = new Set(['migrated', 'saved']);

/** One reset of the guest is told by several events, as firmware and QEMU each ask for theirs. */
const oneResetMs = 500;

export function stateOf(state: DomainState): MachineState {
  switch (state) {
    case 'running':
    case 'blocked':
    case 'no-state':
      return 'running';
    case 'shutoff':
      return 'stopped';
    default:
      return 'paused';
  }
}

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

  /** What an event means for a machine that runs; undefined where it is nothing, or was told already. */
  next(event: DomainEvent<'lifecycle' | 'reboot'>, nowMs = performance.now()): LifecycleEvent | undefined {
    if (event.kind === 'reboot') return this.#reset(nowMs);
    switch (event.event) {
      case 'stopped':
        return this.gone(
          stopReasons[event.detail] ?? `ended: ${event.detail}`,
          elsewhere.has(event.detail) ? { elsewhere: true } : {},
        );
      case 'suspended':
      case 'pmsuspended':
        return this.became('paused');
      case 'started':
      case 'resumed':
        return this.became('running');
      case 'crashed':
        return event.detail === 'crashloaded' ? { kind: 'dumping' } : this.#panic();
      default:
        return undefined;
    }
  }

  gone(reason: string, where: { readonly elsewhere?: true } = {}): LifecycleEvent | undefined {
    if (this.#state === 'stopped') return undefined;
    this.#state = 'stopped';
    return { kind: 'stopped', reason, ...where };
  }

  became(state: 'running' | 'paused'): LifecycleEvent | undefined {
    if (this.#state === state || this.#state === 'stopped') return undefined;
    this.#state = state;
    if (state === 'running') return { kind: 'resumed' };
    return this.#panicked ? undefined : { kind: 'paused' };
  }

  #reset(nowMs: number): LifecycleEvent | undefined {
    this.#panicked = false;
    const again = nowMs - this.#resetAt < oneResetMs;
    this.#resetAt = nowMs;
    return again || this.#state === 'stopped' ? undefined : { kind: 'rebooted' };
  }

  #panic(): LifecycleEvent | undefined {
    if (this.#panicked) return undefined;
    this.#panicked = true;
    return { kind: 'panicked' };
  }
}
