// SPDX-License-Identifier: Apache-2.0

/** The Debian packages, installed in a Debian 12 of their own, with real guests. The tests follow one another. */

import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { GuestView } from '../../host/api/view.ts';
import { Machine } from '../../host/demo/machine.ts';
import { runCommand } from '../../host/kernel/command.ts';
import { fetchKernel, type Kernel } from '../../host/kernel/fetch.ts';
import { makePackage } from '../../host/package/packages.ts';
import { version } from '../../host/version.ts';
import { DebianRoot, rootPrefix } from '../harness/debian-root.ts';
import { expectNoComplaints } from '../harness/kernel-log.ts';
import { LibvirtRig, type RigDomain } from '../harness/libvirt-rig.ts';
import { fixturePath, leftovers, Rig, ServiceProcess } from '../harness/rig.ts';

const minutes = 60_000;
/** What the packages and the headers of a kernel depend on, and what builds a probe. */
const dependencies = ['libstdc++6', 'libvirt0', 'systemd-standalone-sysusers', 'dkms', 'gcc', 'libelf1'];
const nextVersion = `${version}+next`;

afterAll(() => {
  expect(leftovers()).toEqual([]);
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith(rootPrefix))).toEqual([]);
});

describe.skipIf(process.getuid?.() !== 0)('in a fresh Debian', () => {
  let packages: string;
  let root: DebianRoot;
  let kernel: Kernel;
  let machine: Machine;
  let service: ServiceProcess;
  /** A libvirtd; the service in the rig is not started. */
  let rig: LibvirtRig;
  let one: RigDomain;

  const install = (...files: readonly string[]) =>
    root.run(['apt-get', 'install', '-q', '-y', '--no-install-recommends', ...files]);
  const files = async (...roots: readonly string[]): Promise<readonly string[]> =>
    (await root.run(['find', ...roots, '-xdev', '-not', '-type', 'd'])).stdout.trim().split('\n').sort();

  const shown = () => [
    packages,
    kernel.directory,
    machine.directory,
    service.directory,
    rig.daemon.directory,
  ];

  beforeAll(async () => {
    kernel = await fetchKernel('6.1');
    packages = mkdtempSync(join(tmpdir(), 'vesper-test-'));
    root = await DebianRoot.create(dependencies);
    machine = await Machine.boot();
    rig = await LibvirtRig.create();
    one = await rig.boot({ name: 'domain' });
    service = new ServiceProcess(machine, undefined, {
      config: '/etc/vesper/vesper.yaml',
      environment: { VESPER_STATE_DIR: '/var/lib/vesper' },
      program: (environment) => root.command(['/usr/bin/vesper'], environment),
    });
    root.show(...shown());
  }, 10 * minutes);

  afterAll(async () => {
    // The service removes the region of a domain that ends.
    if (one !== undefined) await one.domain.destroy().catch(() => undefined);
    await service?.close();
    await rig?.close();
    await root?.[Symbol.asyncDispose]();
    if (packages !== undefined) rmSync(packages, { recursive: true, force: true });
  }, 5 * minutes);

  test('the service installs, finds its parts, and is enabled', { timeout: 5 * minutes }, async () => {
    await install(await makePackage('vesper', { output: packages, compression: 'none' }));
    const vesper = async (...args: readonly string[]) => (await root.run(['vesper', ...args])).stdout;
    expect(await vesper('--version')).toBe(`${version}\n`);
    const { probes } = JSON.parse(await vesper('probes', '--json')) as { probes: { name: string }[] };
    expect(probes.map(({ name }) => name)).toEqual(['oom', 'signal']);
    const doctor = await root.run(['vesper', 'doctor', '--json'], { accept: [0, 1] });
    const findings = JSON.parse(doctor.stdout) as { what: string; state: string; mend: string }[];
    // QEMU is not there: a host that has libvirt has it.
    expect(findings.filter(({ state }) => state === 'missing').map(({ what }) => what)).toEqual([
      'virtual machines',
    ]);
    expect(findings.find(({ what }) => what === 'service')?.mend).toBe('systemctl enable --now vesper');
    expect(findings.some(({ mend }) => mend.includes('make'))).toBe(false);
    // Somebody else sees the catalogue, too, and is not told to take over what is the service's.
    const nobody = [
      'setpriv',
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
      'env',
      'HOME=/nonexistent',
    ];
    const asNobody = await root.run([...nobody, 'vesper', 'doctor', '--json'], { accept: [0, 1] });
    const seen = JSON.parse(asNobody.stdout) as typeof findings;
    expect(seen.find(({ what }) => what === 'probes')).toMatchObject({ state: 'ok', detail: 'oom, signal' });
    expect(seen.filter(({ what }) => what.endsWith('directory'))).toEqual([]);
    // What Pacemaker runs; without a service nothing is known of a guest.
    const agent = '/usr/lib/ocf/resource.d/vesper/guest-probe';
    expect((await root.run(['stat', '-c', '%U %a', agent])).stdout).toBe('root 755\n');
    expect((await root.run(['/usr/lib/vesper/host/pacemaker/guest-health', 'web1'])).stdout).toMatch(
      /^unknown: /,
    );
    expect((await root.run(['getent', 'group', 'vesper'])).stdout).toMatch(/^vesper:x:\d+:\n$/);
    expect((await root.run(['stat', '-c', '%U:%G %a', '/var/lib/vesper'])).stdout).toBe('root:root 750\n');
    expect(existsSync(root.at('/etc/systemd/system/multi-user.target.wants'))).toBe(true);
    expect(await files('/etc/systemd/system/multi-user.target.wants')).toEqual([
      '/etc/systemd/system/multi-user.target.wants/vesper.service',
    ]);
  });

  test('it attaches a probe to a running guest', { timeout: 5 * minutes }, async () => {
    const configuration = root.at('/etc/vesper/vesper.yaml');
    const shipped = readFileSync(configuration, 'utf8');
    const monitors = `    monitors: { ${machine.name}: ${machine.qmpPath} }\n  libvirt:\n    uri: ${rig.daemon.uri}`;
    writeFileSync(configuration, shipped.replace(/^ {4}folders: .*$/m, monitors));
    await service.start();
    await service.guestUntil(({ state }) => state === 'active');
    const attached = await service.vesper('attach', machine.name, 'signal');
    expect(attached).toMatchObject({ status: 0, stdout: expect.stringContaining('signal is armed') });
    await machine.run('actor --name packaged segv');
    for await (const event of service.api.events({ since: '0', event: 'died', where: 'comm=packaged' })) {
      expect(event).toMatchObject({ guest: machine.name, fields: { signal: 'SIGSEGV' } });
      break;
    }
  });

  test('it builds a probe outside of its own tree', { timeout: 10 * minutes }, async () => {
    const tree = await files('/usr/lib/vesper');
    const built = await root.run(['vesper', 'build', 'oom', '--headers', kernel.headers]);
    const module = `/var/cache/vesper/modules/${kernel.release}/oom.ko`;
    expect(built.stdout.split('\n')).toContain(module);
    expect((await root.run(['vesper', 'check', module, '--json'])).stdout).toContain('"loads": true');
    expect(await files('/usr/lib/vesper')).toEqual(tree);
    expect((await root.run(['dpkg', '--verify', 'vesper'], { accept: [0, 1] })).stdout).toBe(
      '??5?????? c /etc/vesper/vesper.yaml\n',
    );
  });

  test('a newer version takes over while guests write events: each is delivered or counted as lost', {
    timeout: 10 * minutes,
  }, async () => {
    const next = await makePackage('vesper', {
      output: packages,
      compression: 'none',
      version: nextVersion,
    });
    const domain = one.guest.name;
    const pristine = await one.domain.xml();
    expect(await service.vesper('attach', domain, 'signal')).toMatchObject({ status: 0 });
    const plugged = await one.domain.xml();
    expect(plugged).toContain('ua-vesper-region-');
    const configured = readFileSync(root.at('/etc/vesper/vesper.yaml'), 'utf8');

    // QEMU's machine writes from before the new files come, the domain from just before the old service ends: both until after.
    const storms = [await storm(machine.name)];
    await install(next);
    expect(service.running).toBe(true);
    expect((await service.api.guest(machine.name)).state).toBe('active');
    storms.push(await storm(domain));
    // What systemd does at this point.
    expect(await service.kill('SIGTERM')).toBe(0);
    await service.start();

    expect((await service.vesper('--version')).stdout).toBe(`${nextVersion}\n`);
    expect(readFileSync(root.at('/etc/vesper/vesper.yaml'), 'utf8')).toBe(configured);
    for (const before of storms) await accountedFor(before);
    const audit = readFileSync(root.at('/var/lib/vesper/audit.ndjson'), 'utf8').trim().split('\n');
    const actions = audit.map((line) => JSON.parse(line) as Record<string, string>);
    for (const name of [machine.name, domain])
      expect(
        actions.filter(({ guest }) => guest === name).map(({ action, probe }) => `${action} ${probe}`),
      ).toEqual(['load signal', 'load storm']);
    expectNoComplaints(machine.console());

    // What the old version plugged into the domain the new one uses, and takes out.
    expect(await one.domain.xml()).toBe(plugged);
    await one.guest.shell.run('actor --name upgraded segv');
    await event({ guest: domain, event: 'died', where: 'comm=upgraded' });
    expect(await service.vesper('detach', domain, '--all')).toMatchObject({ status: 0 });
    expect(await one.domain.xml()).toBe(pristine);
    expect(rig.regionFiles()).toEqual([]);
    rig.unharmed();
    await rig.end(one);
  });

  const stormRecords = 30_000;

  /** Begins one of 20 s, and returns the guest as it was before. */
  async function storm(name: string): Promise<GuestView> {
    const file = join(service.directory, 'storm.ko');
    copyFileSync(fixturePath('6.1', 'storm'), file);
    const before = await service.guestUntil((guest) => guest.name === name && guest.relay !== null);
    const [result] = await service.api.attach(name, {
      probes: [file],
      parameters: ['start=1', `records=${stormRecords}`, 'rate=1500'],
      self_test: false,
      force: false,
    });
    expect(result).toMatchObject({ ok: true });
    return before;
  }

  /** The new service goes on with the guest, hears of the storm's end, and misses none of its records. */
  async function accountedFor(before: GuestView): Promise<void> {
    const { name } = before;
    const after = await service.guestUntil((guest) => guest.name === name && guest.state === 'active');
    expect(after).toMatchObject({ reason: 'resumed', boot_id: before.boot_id });
    expect(after.probes.map(({ name, loaded }) => `${name} ${loaded}`)).toEqual([
      'signal true',
      'storm true',
    ]);
    const finished = await event({ guest: name, event: 'finished' });
    expect(finished['tried']).toBe(stormRecords);
    // The storm writes two more: `middle` and `finished`.
    const written = stormRecords + 2 + (before.relay?.delivered ?? 0);
    const { relay } = await service.guestUntil(
      (guest) =>
        guest.name === name && guest.relay !== null && guest.relay.delivered + guest.relay.lost === written,
    );
    expect(relay).toMatchObject({ lost: finished['refused'], undecodable: 0, quarantined: 0 });
  }

  /** The fields of the first such event that the service has, or will have. */
  async function event(
    which: Readonly<Record<'guest' | 'event', string> & { where?: string }>,
  ): Promise<Readonly<Record<string, unknown>>> {
    for await (const { fields } of service.api.events({ since: '0', ...which }))
      return fields as Readonly<Record<string, unknown>>;
    throw new Error(`the stream of events ended without ${JSON.stringify(which)}`);
  }

  test('the frontend is built by DKMS, and a guest that has it takes a probe', {
    timeout: 10 * minutes,
  }, async () => {
    // As the kernel's packages lay them out; the running kernel is not this root's.
    await root.run(['mkdir', '-p', `/lib/modules/${kernel.release}`]);
    await root.run(['ln', '-s', kernel.headers, `/lib/modules/${kernel.release}/build`]);
    await install(await makePackage('vesper-dkms', { output: packages }));
    expect((await root.run(['dkms', 'status'])).stdout).toBe(
      `vesper/${version}, ${kernel.release}, x86_64: installed\n`,
    );
    expect(readFileSync(root.at('/etc/modules-load.d/vesper.conf'), 'utf8')).toBe('vesper\n');

    const frontend = root.at(`/usr/lib/modules/${kernel.release}/updates/dkms/vesper.ko`);
    await using rig = await Rig.start({ frontend });
    expect(rig.view.frontend).toContain(version);
    await rig.attach(['signal']);
    await rig.machine.run('actor --name dkms segv');
    await rig.event(({ event, fields }) => event === 'died' && fields['comm'] === 'dkms');
    expectNoComplaints(rig.machine.console());
  });

  test('removed, they leave configuration and state; purged, nothing', { timeout: 5 * minutes }, async () => {
    await machine.kill();
    await service.guestUntil(({ state }) => state === 'stopped');
    // As prerm has systemd do.
    expect(await service.kill('SIGTERM')).toBe(0);
    await root.run(['apt-get', 'remove', '-q', '-y', 'vesper', 'vesper-dkms']);
    expect(existsSync(root.at(`/usr/lib/modules/${kernel.release}/updates/dkms/vesper.ko`))).toBe(false);
    expect(existsSync(root.at('/etc/vesper/vesper.yaml'))).toBe(true);
    expect(existsSync(root.at('/var/lib/vesper/wanted.json'))).toBe(true);
    await root.run(['apt-get', 'purge', '-q', '-y', 'vesper', 'vesper-dkms']);
    // Where it was shown something of this machine, empty folders stand.
    const named = [root.directory, '-mindepth', '1', '-name', '*vesper*', '-printf', '/%P\\n'];
    const left = (await runCommand('find', named)).stdout.split('\n').filter(Boolean);
    expect(left.filter((path) => !shown().some((folder) => `${folder}/`.startsWith(`${path}/`)))).toEqual([]);
    expect((await root.run(['getent', 'group', 'vesper'], { accept: [2] })).stdout).toBe('');
  });
});

test('the same tree makes the same package', async () => {
  const output = mkdtempSync(join(tmpdir(), 'vesper-test-'));
  try {
    const once = readFileSync(await makePackage('vesper-dkms', { output }));
    expect(readFileSync(await makePackage('vesper-dkms', { output })).equals(once)).toBe(true);
  } finally {
    rmSync(output, { recursive: true, force: true });
  }
});
