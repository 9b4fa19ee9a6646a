// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';
import type { MachineState } from '../../host/provider/provider.ts';
import { Lifecycle, stateOf } from '../../host/provider/qemu/lifecycle.ts';

/** Plays events `NAME` or `NAME:reason`, a second apart, `GONE` being the end of the connection; tells what they meant. */
function play(state: MachineState, ...script: string[]): { told: string[]; state: MachineState } {
  const lifecycle = new Lifecycle(state);
  const told = script.flatMap((step, i) => {
    const [name = '', reason] = step.split(':');
    const data = reason === undefined ? {} : { reason };
    const meaning = name === 'GONE' ? lifecycle.gone() : lifecycle.next({ name, data }, i * 1_000);
    if (meaning === undefined) return [];
    return [meaning.kind === 'stopped' ? `stopped: ${meaning.reason}` : meaning.kind];
  });
  return { told, state: lifecycle.state };
}

describe('what QEMU tells', () => {
  it.each<[string, MachineState, string[], string[], MachineState]>([
    [
      'the guest shuts down, QEMU ends',
      'running',
      ['SHUTDOWN:guest-shutdown', 'STOP', 'GONE'],
      ['stopped: shut down by the guest'],
      'stopped',
    ],
    [
      'somebody ends QEMU',
      'running',
      ['SHUTDOWN:host-qmp-quit', 'GONE'],
      ['stopped: ended by the QMP command quit'],
      'stopped',
    ],
    ['QEMU is killed', 'running', ['GONE'], ['stopped: QEMU was killed or crashed'], 'stopped'],
    ['pause and go on', 'running', ['STOP', 'RESUME'], ['paused', 'resumed'], 'running'],
    ['a machine that was started with -S', 'paused', ['RESUME'], ['resumed'], 'running'],
    ['reboot', 'running', ['RESET:guest-reset'], ['rebooted'], 'running'],
    [
      'two reboots',
      'running',
      ['RESET:guest-reset', 'RESET:host-qmp-system-reset'],
      ['rebooted', 'rebooted'],
      'running',
    ],
    [
      'a panic, told twice, that pauses the machine',
      'running',
      ['GUEST_PANICKED', 'GUEST_PANICKED', 'STOP'],
      ['panicked'],
      'paused',
    ],
    [
      'a panic, a reboot, a panic',
      'running',
      ['GUEST_PANICKED', 'RESET:guest-reset', 'GUEST_PANICKED'],
      ['panicked', 'rebooted', 'panicked'],
      'running',
    ],
    [
      'a crash dump, then a reboot',
      'running',
      ['GUEST_CRASHLOADED', 'RESET:guest-reset'],
      ['dumping', 'rebooted'],
      'running',
    ],
    [
      'a panic that ends QEMU',
      'running',
      ['GUEST_PANICKED', 'SHUTDOWN:guest-panic', 'GONE'],
      ['panicked', 'stopped: its kernel panicked, and QEMU was told to end then'],
      'stopped',
    ],
    [
      '-no-shutdown, then started again',
      'running',
      ['SHUTDOWN:guest-shutdown', 'STOP', 'RESET:host-qmp-system-reset', 'RESUME'],
      ['stopped: shut down by the guest', 'started'],
      'running',
    ],
    [
      'a reason this version does not know',
      'running',
      ['SHUTDOWN:moon-phase'],
      ['stopped: ended: moon-phase'],
      'stopped',
    ],
    [
      'what is none of our business',
      'running',
      ['RTC_CHANGE', 'VSERPORT_CHANGE', 'DEVICE_DELETED'],
      [],
      'running',
    ],
  ])('%s', (_, before, script, told, after) => {
    expect(play(before, ...script)).toEqual({ told, state: after });
  });

  it('resets close together are one', () => {
    const lifecycle = new Lifecycle('running');
    const reset = { name: 'RESET', data: {} };
    expect([0, 100, 550, 2_000].map((ms) => lifecycle.next(reset, ms)?.kind)).toEqual([
      'rebooted',
      undefined,
      undefined,
      'rebooted',
    ]);
  });

  it('the state it is found in', () => {
    expect(['running', 'paused', 'prelaunch', 'guest-panicked', 'shutdown'].map(stateOf)).toEqual([
      'running',
      'paused',
      'paused',
      'paused',
      'stopped',
    ]);
  });
});
