// SPDX-License-Identifier: Apache-2.0

/** The libvirt provider with real domains: attached while they run, and as they were afterwards. */

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { guestAgentFiles, startGuestAgent } from '../harness/guest-agent-files.ts';
import type { LibvirtGuestOptions } from '../harness/libvirt-guest.ts';
import { LibvirtRig, type RigDomain } from '../harness/libvirt-rig.ts';

/** Loading and unloading on a busy machine. */
const patience = { timeout: 60_000, interval: 50 };

let rig: LibvirtRig;

beforeAll(async () => {
  rig = await LibvirtRig.create({ removedKeptMs: 100 });
  await rig.service.start();
});

afterAll(async () => {
  await rig?.close();
  expect(rig?.daemon.processes()).toEqual([]);
});

/** A domain that is gone after the test: each takes its part of the processor. */
async function boot(options: LibvirtGuestOptions): Promise<RigDomain> {
  const one = await rig.boot(options);
  onTestFinished(() => rig.end(one));
  return one;
}

describe('a domain that runs', () => {
  test.each([
    { machine: 'pc', kernel: '6.1' },
    { machine: 'q35', kernel: '6.12' },
  ] as const)('$machine, $kernel: events arrive; after the last probe it is as it was', async (shape) => {
    const name = `${shape.machine}-${shape.kernel}`;
    const one = await boot({ name, ...shape });
    await rig.service.guestFound(name, 30_000);
    const before = await one.domain.xml();
    expect(rig.view(name)).toMatchObject({ provider: 'libvirt', state: 'running', channel: '' });

    // As vesper install proves that its frontend is reached: nothing is wanted, and nothing stays.
    const reached = await rig.guest(name).reach(() => rig.view(name));
    expect(reached).toMatchObject({ state: 'active', frontend: expect.stringMatching(/^\d/) });
    expect(await one.domain.xml()).toBe(before);

    await rig.attach(['signal'], [], name);
    await rig.delivers(one, 'carried');
    const view = rig.view(name);
    expect(view).toMatchObject({
      state: 'active',
      relay: { backend: 'ivshmem', backend_reason: '', lost: 0 },
    });
    expect(view.channel).toMatch(/^virtio-serial port org.vesper.probe.0 \(\/.*\)$/);

    const result = await rig.guest(name).detach('signal', 'test');
    expect(result).toMatchObject({ ok: true });
    expect(await one.domain.xml()).toBe(before);
    expect(rig.regionFiles()).toEqual([]);
    rig.unharmed();
  });
});

describe('which way events take', () => {
  const carried: readonly {
    readonly what: string;
    readonly shape: LibvirtGuestOptions;
    readonly backend: string;
    readonly why: RegExp;
  }[] = [
    {
      what: 'no free root port, but shared RAM: pages of the guest',
      shape: { name: 'pages', machine: 'q35', rootPorts: 2, sharedMemory: true },
      backend: 'guest-pages',
      why: /^no ivshmem: a region needs a free PCI Express root port and the machine has only taken ones \(2\): add <controller type='pci' model='pcie-root-port'\/>/,
    },
    {
      what: 'neither: the channel',
      shape: { name: 'inline', machine: 'q35', rootPorts: 2 },
      backend: 'inline',
      why: /no guest-pages: its RAM is not shared: virsh edit inline: <memoryBacking>/,
    },
  ];
  test.each(carried)('$what', async ({ shape, backend, why }) => {
    const { name = '' } = shape;
    const one = await boot(shape);
    const before = await one.domain.xml();
    await rig.attach(['signal'], [], name);
    await rig.delivers(one, 'carried');
    expect(rig.view(name).relay).toMatchObject({
      backend,
      backend_reason: expect.stringMatching(why),
      lost: 0,
    });
    await rig.guest(name).detach('signal', 'test');
    expect(await one.domain.xml()).toBe(before);
    expect(rig.regionFiles()).toEqual([]);
    rig.unharmed();
  });

  test('a channel of our name that the owner of the domain put there is used, and stays', async () => {
    const name = 'owned';
    const devices =
      "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.vesper.probe.0'/></channel>";
    const one = await boot({ name, devices });
    await rig.attach(['signal'], [], name);
    await rig.delivers(one, 'carried');
    expect(await one.domain.xml()).not.toContain('ua-vesper-channel');
    await rig.guest(name).detach('signal', 'test');
    expect(await one.domain.xml()).toMatch(/name='org.vesper.probe.0'/);
    expect(await one.domain.xml()).not.toContain('vesper-region');
  });

  test('no virtio-serial controller, and no vsock to be had: said, with what to type', async () => {
    const name = 'bare';
    await boot({ name, virtioSerial: false });
    await expect(rig.attach(['signal'], [], name)).rejects.toThrow(
      /it has no virtio-serial controller, .* \(virsh edit bare: <controller type='virtio-serial'\/> among the devices\), and no vsock device, .*\(modprobe vhost_vsock\): .*plugging a vsock device in.*/,
    );
    expect(rig.guest(name).wanted).toEqual([]);
  });
});

test('what is attached while the guest is being left waits for that', async () => {
  const name = 'left';
  const one = await boot({ name });
  const guest = await rig.service.guestFound(name, 30_000);
  // Nobody wants anything of it: it is left as soon as it was reached.
  await guest.active(patience.timeout);
  await rig.attach(['signal'], [], name);
  await rig.delivers(one, 'in-time');
  await rig.guest(name).detach('signal', 'test');
});

test('a guest without the frontend: said so, and the domain is as it was', async () => {
  const name = 'without';
  const one = await boot({ name, frontend: false });
  await rig.service.guestFound(name, 30_000);
  const before = await one.domain.xml();
  await expect(rig.attach(['signal'], [], name)).rejects.toThrow(
    /^without is running: .*: load vesper.ko in the guest/,
  );
  await expect.poll(() => rig.view(name).reason, patience).toMatch(/^no probe is wanted on it/);
  expect(await one.domain.xml()).toBe(before);
});

test('a file is read by the guest agent, which libvirt has', async () => {
  const name = 'agent';
  const devices =
    "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
  const { guest } = await boot({ name, devices, files: await guestAgentFiles() });
  const { machine } = await rig.service.guestFound(name, 30_000);
  const read = async () => Buffer.from((await machine.readGuestFile?.('/tmp/pid', 64)) ?? []).toString();
  await expect(read()).rejects.toThrow(/agent is not connected/);
  await guest.check(`echo 4711 >/tmp/pid; (${startGuestAgent}) >/dev/null 2>&1 &`);
  await expect.poll(() => read().catch(String), patience).toBe('4711\n');
  await guest.check('rm /tmp/pid');
  await expect(read()).rejects.toThrow(/guest-file-open.*No such file/);
  rig.unharmed();
});

describe('what a domain asks for itself', () => {
  const uri = 'urn:vesper:probes:1';
  const signals = (list: string) =>
    `<probes><probe name="signal"><parameter name="signals" value="${list}"/></probe></probes>`;

  test('in its metadata: loaded, loaded with others, refused with a sentence, unloaded', async () => {
    const name = 'asking';
    const { domain } = await boot({ name });
    await rig.service.guestFound(name, 30_000);
    const before = await domain.xml();
    const ask = (text: string | null) =>
      domain.setMetadata(text, { type: 'element', uri, key: 'vesper', live: true });
    const probes = () =>
      rig.view(name).probes.map(({ name, loaded, parameters }) => ({ name, loaded, parameters }));

    await ask(signals('SIGSEGV'));
    await expect
      .poll(probes, patience)
      .toEqual([{ name: 'signal', loaded: true, parameters: { signals: 'SIGSEGV' } }]);
    expect(rig.view(name).probes[0]?.wanted_by).toBe('the metadata of asking');
    await ask(signals('SIGKILL'));
    await expect
      .poll(probes, patience)
      .toEqual([{ name: 'signal', loaded: true, parameters: { signals: 'SIGKILL' } }]);

    await ask('<probes><prob name="signal"/></probes>');
    await expect
      .poll(() => rig.service.problems().get(name), patience)
      .toMatch(/^the metadata of asking .* only <probe> may stand in it: write </);
    await expect.poll(probes, patience).toMatchObject([{ name: 'signal', loaded: true }]);

    await ask(null);
    await expect.poll(() => rig.view(name), patience).toMatchObject({ state: 'running', probes: [] });
    const after = async () => (await domain.xml()).replace('  <metadata/>\n', '');
    await expect.poll(after, patience).toBe(before);
    expect(rig.service.problems().size).toBe(0);
  });
});

test('a domain whose QEMU hangs: said so, and no other waits for it', async () => {
  const [stuck, fine] = [await boot({ name: 'stuck' }), await boot({ name: 'fine' })];
  await rig.service.guestFound('stuck', 30_000);
  const qemu = rig.daemon.qemuPid('stuck');
  process.kill(qemu, 'SIGSTOP');
  try {
    const refused = expect(rig.attach(['signal'], [], 'stuck')).rejects.toThrow(
      /^stuck is running: .*: its QEMU or libvirtd hangs$/,
    );
    await rig.attach(['signal'], [], 'fine');
    await rig.delivers(fine, 'unmoved');
    await refused;
  } finally {
    process.kill(qemu, 'SIGCONT');
  }
  // What libvirt was asked for may have come about meanwhile.
  await expect
    .poll(() => rig.attach(['signal'], [], 'stuck').then(() => 'attached', String), patience)
    .toBe('attached');
  await rig.delivers(stuck, 'moved');
});

test('a domain that ended and was undefined is forgotten', async () => {
  const { guest, domain } = await rig.define({ name: 'brief' });
  await domain.start();
  await rig.service.guestFound('brief', 30_000);
  await domain.destroy();
  await rig.until(() => rig.guest('brief').state === 'stopped', 'brief');
  expect(() => rig.service.guest('never')).toThrow(
    /^no guest never: .*; a domain of libvirt is a guest once it runs \(virsh start never\)$/,
  );
  await domain.undefine();
  await rig.until(() => !rig.service.guests().some(({ machine }) => machine.uuid === guest.uuid));
});
