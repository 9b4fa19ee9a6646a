// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Machine, type MachineOptions } from '../../host/demo/machine.ts';
import { scratchDirectory } from '../../host/kernel/cache.ts';
import { kernelKeys } from '../../host/kernel/release.ts';

async function boot(options: MachineOptions = {}): Promise<Machine> {
  const machine = await Machine.boot({ frontend: false, ...options });
  onTestFinished(() => machine.close());
  return machine;
}

/** Whether a process runs; one that is dead but not yet waited for does not. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function until(condition: () => boolean): Promise<void> {
  await expect.poll(condition, { timeout: 10_000, interval: 20 }).toBe(true);
}

describe.each(kernelKeys)('kernel %s', (kernel) => {
  test.each(['pc', 'q35'] as const)('boots on %s and runs commands', async (machineType) => {
    const machine = await boot({ kernel, machine: machineType });

    expect(await machine.check('uname -r')).toMatch(kernel);
    expect(await machine.run('echo out; echo err >&2; exit 3')).toEqual({ status: 3, output: 'out\nerr' });
    expect(await machine.check('ls /sys/bus/virtio/drivers/virtio_console')).toContain('virtio');
    expect(machine.console()).toMatch(/Linux version/);
    expect(readFileSync(machine.consoleLogPath, 'utf8')).toMatch(/Linux version/);
  });

  test('runs commands of any length that a shell can be given, and refuses longer ones at once', async () => {
    const machine = await boot({ kernel });
    for (const length of [500, 600, 700, 800, 1_000, 1_024, 5_000, 20_000])
      expect(await machine.check(`printf %s ${'x'.repeat(length)} | wc -c`)).toBe(String(length));
    await expect(machine.run(`: ${'x'.repeat(128 << 10)}`)).rejects.toMatchObject({
      code: 'USAGE',
      message: expect.stringMatching(
        /a command of 1311\d\d bytes is more than a shell can be given \(131071\)/,
      ),
    });
    await machine.post(`echo ${'y'.repeat(3_000)} >/tmp/posted`);
    expect(await machine.check('wc -c </tmp/posted')).toBe('3001');
  });

  test('comes back after a reset and after a reboot, with another boot id', async () => {
    const machine = await boot({ kernel });
    const bootId = () => machine.check('cat /proc/sys/kernel/random/boot_id');
    const first = await bootId();

    await machine.reset();
    const second = await bootId();
    const position = machine.consolePosition();
    await machine.post('reboot -f');
    await machine.waitReady(position);

    expect(new Set([first, second, await bootId()]).size).toBe(3);
  });

  test('panics and stays, or reboots when it is told to', async () => {
    const machine = await boot({ kernel });
    const position = machine.consolePosition();
    await machine.post('echo c >/proc/sysrq-trigger');
    await machine.waitConsole(/end Kernel panic/, 20_000, position);
    expect(runs(machine.pid)).toBe(true);

    const other = await boot({ kernel, panic: -1 });
    const before = other.consolePosition();
    await other.sysrq('c');
    await other.waitReady(before);
    expect(await other.check('echo back')).toBe('back');
  });

  test('has user space that stands still, yet its kernel sends signals', async () => {
    const machine = await boot({ kernel });
    const bomb = await machine.start('actor --name bomb timebomb 100000 9');
    await machine.freeze();

    const position = machine.consolePosition();
    await machine.sysrq('t');
    const task = (name: string, state: string) =>
      new RegExp(`task:${name} +state:${state} .*? pid:(\\d+)\\s`);
    await machine.waitConsole(task('actor', 'D'), 10_000, position);
    expect((await machine.waitConsole(task('bomb', 'T'), 10_000, position))[1]).toBe(`${bomb}`);

    await machine.sysrq('i');
    await machine.waitConsole(/Kill All Tasks/, 10_000, position);
  });
});

test('init can be asleep for ever, alone', async () => {
  const machine = await boot({ init: 'asleep' });
  // Right after its last line PID 1 may still be busy with writing it, and needs time between two looks to get done.
  await expect
    .poll(
      async () => {
        const position = machine.consolePosition();
        await machine.sysrq('t');
        return (await machine.waitConsole(/task:actor .*? pid:1 /, 10_000, position))[0];
      },
      { timeout: 60_000, interval: 1_000 },
    )
    .toMatch(/state:S/);
  expect(machine.console()).not.toMatch(/task:sh /);
});

test.each(['single', 'multi'] as const)(
  'more memory than fits under the PCI hole, four processors, %s',
  async (tcgThreads) => {
    const machine = await boot({ memoryMib: 4096, cpus: 4, tcgThreads });
    expect(await machine.check('nproc')).toBe('4');
    expect(await machine.check('grep "System RAM" /proc/iomem')).toMatch(/^10{8}-/m);
  },
);

test('commands wait for each other, and one that hangs is given up', async () => {
  const machine = await boot();
  const outputs = await Promise.all([1, 2, 3].map((n) => machine.check(`echo ${n}`)));
  expect(outputs).toEqual(['1', '2', '3']);
  const text = `it's "$HOME" \`x\` \\ ümlaut\n\n`;
  expect(await machine.check(`printf %s '${text.replaceAll("'", `'\\''`)}'`)).toBe(
    text.trimEnd().concat('\n'),
  );

  await expect(machine.run('sleep 2', { timeoutMs: 200 })).rejects.toMatchObject({ code: 'TIMEOUT' });
  expect(await machine.check('echo again')).toBe('again');
});

test('the actor dies as it is told', async () => {
  const machine = await boot();
  expect((await machine.run('actor segv')).status).toBe(128 + 11);
  expect((await machine.run('actor bus')).status).toBe(128 + 7);
  expect((await machine.run('actor abort')).status).toBe(128 + 6);
  expect((await machine.run('actor eat', { timeoutMs: 60_000 })).status).toBe(128 + 9);
  expect(machine.console()).toMatch(/Out of memory: Killed process \d+ \(actor\)/);
  expect(await machine.check('actor storm 10000 2')).toMatch(/^10000 \d+$/);

  const victim = await machine.start('actor --name prey victim');
  expect(
    await machine.check(
      `cat /proc/${victim}/comm; actor kill ${victim} 9; wait; test -e /proc/${victim} || echo gone`,
    ),
  ).toBe('prey\ngone');
});

test('a machine that is killed says so, and closing it leaves nothing', async () => {
  const machine = await boot();
  const hanging = machine.run('sleep 1000', { timeoutMs: 60_000 });
  expect(await machine.kill()).toEqual({ code: null, signal: 'SIGKILL' });
  await expect(hanging).rejects.toMatchObject({ code: 'SESSION_ENDED' });
  await machine.close();
  expect(existsSync(machine.directory)).toBe(false);
  expect(runs(machine.pid)).toBe(false);
});

test('a kernel that panics is told at once, with its last lines', async () => {
  const started = performance.now();
  await expect(boot({ append: 'rdinit=/nothing', bootTimeoutMs: 120_000 })).rejects.toMatchObject({
    code: 'HOST',
    message: expect.stringMatching(/Unable to mount root fs/),
  });
  expect(performance.now() - started).toBeLessThan(60_000);
});

test('QEMU dies with a parent that is killed -9, and the next machine sweeps its folder', async () => {
  const { process: parent, pid, directory } = await spawnParent();
  expect(runs(pid)).toBe(true);
  parent.kill('SIGKILL');
  await once(parent, 'exit');
  await until(() => !runs(pid));

  expect(existsSync(directory)).toBe(true);
  const machine = await boot();
  expect(existsSync(directory)).toBe(false);
  expect(readdirSync(tmpdir())).toContain(machine.directory.slice(tmpdir().length + 1));
});

test('a machine that was booted to be kept outlives its parent', async () => {
  const { process: parent, pid, directory } = await spawnParent('machine.detach();');
  if (parent.exitCode === null) await once(parent, 'exit');
  expect(runs(pid)).toBe(true);
  scratchDirectory(tmpdir(), 'vesper-guest-');
  expect(existsSync(join(directory, 'qmp.sock'))).toBe(true);

  process.kill(pid, 'SIGKILL');
  await until(() => !runs(pid));
  scratchDirectory(tmpdir(), 'vesper-guest-');
  expect(existsSync(directory)).toBe(false);
});

interface Parent {
  readonly process: ChildProcess;
  /** QEMU's pid. */
  readonly pid: number;
  readonly directory: string;
}

/** Another process that boots a machine, says where it is, and then runs `script`, or sleeps. */
async function spawnParent(script?: string): Promise<Parent> {
  const source = `
    import { Machine } from ${JSON.stringify(join(import.meta.dirname, '../../host/demo/machine.ts'))};
    const machine = await Machine.boot({ frontend: false, keep: ${script !== undefined} });
    console.log(JSON.stringify({ pid: machine.pid, directory: machine.directory }));
    ${script ?? 'setInterval(() => {}, 1000);'}
  `;
  const parent = spawn(process.execPath, ['--input-type=module-typescript', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => {
    parent.kill('SIGKILL');
  });
  const [line] = await once(createInterface({ input: parent.stdout }), 'line');
  return { process: parent, ...(JSON.parse(line) as { readonly pid: number; readonly directory: string }) };
}
