// SPDX-License-Identifier: Apache-2.0

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { checkCommand } from '../../host/cli/check.ts';
import { probesCommand } from '../../host/cli/probes.ts';
import type { GuestKernel } from '../../host/probe/finding.ts';
import { moduleImage } from '../fixtures/module-image.ts';

let root = '';
let file = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vesper-cli-'));
  mkdirSync(join(root, '6.1.0'));
  file = join(root, '6.1.0/fixture.ko');
  writeFileSync(file, moduleImage());
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(root, { recursive: true });
});

/** What the command printed, and the exit status of what it threw. */
async function run(
  command: Command,
  ...argv: readonly string[]
): Promise<{ out: string; err: string; status: number }> {
  const capture = (stream: NodeJS.WriteStream) => {
    let text = '';
    vi.spyOn(stream, 'write').mockImplementation((part) => {
      text += String(part);
      return true;
    });
    return () => text;
  };
  const out = capture(process.stdout);
  const err = capture(process.stderr);
  try {
    await command.exitOverride().parseAsync(argv, { from: 'user' });
    return { out: out(), err: err(), status: 0 };
  } catch (error) {
    const { exitStatus = -1, message } = error as Error & { exitStatus?: number };
    return { out: out(), err: err() + message, status: exitStatus };
  } finally {
    vi.restoreAllMocks();
  }
}

describe('vesper probes', () => {
  it('lists the catalogue, and warns of what cannot be used', async () => {
    writeFileSync(join(root, '6.1.0/broken.ko'), 'x');
    const { out, err } = await run(probesCommand(), '--catalogue', root);
    expect(out).toBe(
      'PROBE    VERSION  EVENTS  KERNELS  DESCRIPTION\nfixture  1.2.3         1        1  A probe for tests.\n',
    );
    expect(err).toMatch(/^warning: .*broken\.ko: .*it is not an ELF file/);
  });

  it('shows one probe', async () => {
    const { out } = await run(probesCommand(), 'fixture', '--catalogue', root);
    expect(out).toContain(
      'fixture: A probe for tests.\n  module fixture, 1.2.3, GPL, Somebody <s@example.org>\n',
    );
    expect(out).toContain('Event died (critical): Something died.');
    expect(out).toMatch(/ {2}comm {3}text\[16\] {2}comm {2}- {5}its name\n/);
    expect(out).toMatch(/ {2}do_exit {2}kprobe {2}yes {7}end of a task\n/);
    expect(out).toMatch(/ {2}threshold {2}int {12}least value\n/);
    expect(out).toMatch(/ {2}6\.1\.0-56-cloud-amd64 {2}x86_64 +\d+ {2}[0-9a-f]{12}\n/);
  });

  it('prints the same as JSON', async () => {
    const all = JSON.parse((await run(probesCommand(), '--json', '--catalogue', root)).out);
    const one = JSON.parse((await run(probesCommand(), 'fixture', '--json', '--catalogue', root)).out);
    expect(all).toEqual({ probes: [one], problems: [] });
    expect(one).toMatchObject({
      name: 'fixture',
      events: [
        {
          id: 1,
          name: 'died',
          severity: 'critical',
          payload_bytes: 24,
          fields: [{ name: 'pid' }, { name: 'comm' }],
        },
      ],
      points: [{ name: 'do_exit', kind: 'kprobe', required: true }],
      builds: [{ kernel_release: '6.1.0-56-cloud-amd64', architecture: 'x86_64', path: file }],
    });
  });

  it('fails with 1 for a probe that is not there', async () => {
    expect(await run(probesCommand(), 'nix', '--catalogue', root)).toMatchObject({
      status: 1,
      err: 'There is no probe nix; the catalogue has fixture.',
    });
  });
});

describe('vesper check', () => {
  const guest: GuestKernel = {
    name: 'web1',
    kernelRelease: '6.1.0-56-cloud-amd64',
    vermagic: '6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions ',
    machine: 'x86_64',
    imageMax: 4 << 20,
  };
  const against = (changes: Partial<GuestKernel>) =>
    checkCommand(async (name) => ({ ...guest, name, ...changes }));

  it('shows the module and that nothing speaks against it', async () => {
    const { out, status } = await run(checkCommand(), file);
    expect(status).toBe(0);
    expect(out).toContain('Event died (critical)');
    expect(out).toMatch(/Check of the file alone\n {2}no problem found\n$/);
    expect((await run(against({}), file, '--guest', 'web1')).out).toMatch(
      /Check against guest web1\n {2}it would load\n$/,
    );
  });

  it('fails with 4 where it would not load, and says why', async () => {
    const { out, err, status } = await run(against({ machine: 'aarch64' }), file, '--guest', 'web1');
    expect(status).toBe(4);
    expect(out).toContain('  error: Probe fixture is built for x86_64, guest web1 is aarch64;');
    expect(err).toContain('Probe fixture would not load into guest web1: ');
  });

  it('gives findings as JSON', async () => {
    const { out, status } = await run(against({ imageMax: 1 }), file, '--guest', 'web1', '--json');
    expect(JSON.parse(out)).toMatchObject({
      guest: 'web1',
      loads: false,
      findings: [{ severity: 'error', code: 'SIZE' }],
    });
    expect(status).toBe(4);
  });

  it('fails with 4 for a file that is no module, and 1 for one that is not there', async () => {
    writeFileSync(file, 'x');
    expect(await run(checkCommand(), file)).toMatchObject({
      status: 4,
      err: expect.stringContaining('it is not an ELF file'),
    });
    expect(await run(checkCommand(), join(root, 'none.ko'))).toMatchObject({ status: 1 });
  });

  it.each([probesCommand(), checkCommand(), against({})])('%# has help with an example', async (command) => {
    const { out } = await run(command, '--help');
    expect(out).toMatch(/Examples?:\n {2}vesper /);
  });
});
