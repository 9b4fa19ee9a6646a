// SPDX-License-Identifier: Apache-2.0

/** What the libvirt provider reads and decides without a libvirtd. */

import { describe, expect, test } from 'vitest';
import { askedProbes } from '../../host/provider/libvirt/asked.ts';
import { domainDevices } from '../../host/provider/libvirt/domain-xml.ts';
import type { DomainEvent } from '../../host/provider/libvirt/event.ts';
import { connectionProblem } from '../../host/provider/libvirt/failure.ts';
import { Lifecycle } from '../../host/provider/libvirt/lifecycle.ts';
import { checkUri } from '../../host/provider/libvirt/uri.ts';
import { parseXml } from '../../host/provider/libvirt/xml.ts';

describe('XML', () => {
  test('elements by their names, whatever their prefix; values as they are written', () => {
    const root = parseXml("<v:a xmlns:v='urn:x' n='007'><b>1 &lt; 2</b><b/><c>true</c></v:a>", 'a');
    expect(root.attribute('n')).toBe('007');
    expect(root.all('b').map(({ text }) => text)).toEqual(['1 < 2', '']);
    expect(root.find('c')?.text).toBe('true');
    expect(root.find('c', 'd')).toBeUndefined();
    expect(root.children()).toHaveLength(3);
  });

  test.each(['', '<a', '<a></b>', '<b/>'])('%j is refused', (text) => {
    expect(() => parseXml(text, 'a')).toThrow();
  });
});

describe('a live domain', () => {
  const domain = (devices: string, more = '') =>
    domainDevices(`<domain type='kvm' id='1'>${more}<devices>${devices}</devices></domain>`);

  test('with nothing in it', () => {
    expect(domainDevices('<domain/>')).toEqual({
      pciExpress: false,
      rootPorts: [],
      serialControllers: 0,
      channels: [],
      shmems: [],
      vsockCid: undefined,
      vsockAlias: undefined,
      user: undefined,
      sharedRam: false,
    });
  });

  test('root ports: taken by whatever device is behind one, also of a bus written in hexadecimal', () => {
    const port = (index: number, more = '') =>
      `<controller type='pci' index='${index}' model='pcie-root-port'>${more}<address type='pci' bus='0x00' slot='0x0${index}'/></controller>`;
    const { pciExpress, rootPorts } = domain(
      `<controller type='pci' index='0' model='pcie-root'/>${port(1)}${port(2, "<target chassis='2' hotplug='off'/>")}${port(16)}
       <interface type='network'><address type='pci' bus='0x10' slot='0x00'/></interface>
       <hostdev mode='subsystem'><source><address domain='0x0000' bus='0x01'/></source></hostdev>`,
    );
    expect(pciExpress).toBe(true);
    expect(rootPorts).toEqual([
      { index: 1, hotplug: true, taken: false },
      { index: 2, hotplug: false, taken: false },
      { index: 16, hotplug: true, taken: true },
    ]);
  });

  test('channels: where they listen, and those that do not', () => {
    const { channels } = domain(
      `<channel type='unix'><source mode='bind' path='/run/c1'/><target type='virtio' name='one'/><alias name='channel0'/></channel>
       <channel type='pty'><source path='/dev/pts/1'/><target type='virtio' name='two'/></channel>
       <channel type='unix'><source mode='connect' path='/run/c3'/><target type='virtio' name='three'/></channel>
       <channel type='pty'><target type='guestfwd' address='10.0.2.1' port='4600'/></channel>`,
    );
    expect(channels).toEqual([
      { alias: 'channel0', name: 'one', socketPath: '/run/c1' },
      { alias: '', name: 'two', socketPath: undefined },
      { alias: '', name: 'three', socketPath: undefined },
    ]);
  });

  test('whom QEMU runs as, its vsock and its memory', () => {
    const { user, vsockCid, vsockAlias, sharedRam } = domain(
      "<vsock model='virtio'><cid auto='yes' address='4'/><alias name='ua-vesper-vsock'/></vsock>",
      `<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
       <seclabel type='dynamic' model='apparmor'><label>libvirt-1</label></seclabel>
       <seclabel type='dynamic' model='dac'><label>+64055:+109</label></seclabel>`,
    );
    expect({ user, vsockCid, vsockAlias, sharedRam }).toEqual({
      user: { uid: 64055, gid: 109 },
      vsockCid: 4,
      vsockAlias: 'ua-vesper-vsock',
      sharedRam: true,
    });
  });
});

describe('URIs', () => {
  test.each(['qemu:///system', 'qemu:///session', 'qemu+unix:///session?socket=/run/x'])('%s', (uri) => {
    expect(() => checkUri(uri)).not.toThrow();
  });

  test.each([
    ['qemu+ssh://root@node2/system', /is on another host: .* run vesper serve on node2, with --libvirt/],
    ['qemu+tls://node2/session', /run vesper serve on node2, with --libvirt qemu:\/\/\/session$/],
    ['qemu://node2/system', /is on another host/],
    ['qemu+ssh:///system', /run vesper serve on that host/],
    ['xen:///system', /only QEMU's domains can be probed: write qemu:\/\/\/system/],
    ['qemu:///sistem', /only QEMU's domains/],
    ['web1', /is not a URI of libvirt/],
    ['', /is not a URI of libvirt/],
  ])('%s is refused with what to do', (uri, sentence) => {
    expect(() => checkUri(uri)).toThrow(sentence);
  });
});

describe('why a daemon is not reached', () => {
  const failed = (message: string, code: string) =>
    connectionProblem('qemu:///system', Object.assign(new Error(message), { name: 'LibvirtError', code }));

  test.each([
    [
      "Failed to connect socket to 'x': No such file or directory",
      'VIR_ERR_SYSTEM_ERROR',
      /systemctl start libvirtd/,
    ],
    [
      "Failed to connect socket to 'x': Permission denied",
      'VIR_ERR_SYSTEM_ERROR',
      /as root, or as a user of the group libvirt$/,
    ],
    [
      'authentication unavailable: no polkit agent',
      'VIR_ERR_AUTH_UNAVAILABLE',
      /as root, or as a user of the group libvirt$/,
    ],
    ['no answer', 'TIMEOUT', /libvirtd hangs: systemctl restart libvirtd/],
  ])('%s', (message, code, advice) => {
    expect(failed(message, code)).toMatch(advice);
  });
});

describe('lives', () => {
  const about = { domain: { name: 'web1', uuid: '', id: 1 } };
  const event = (name: string, detail: string) =>
    ({ kind: 'lifecycle', event: name, detail, ...about }) as DomainEvent<'lifecycle'>;
  const reset = { kind: 'reboot', ...about } as DomainEvent<'reboot'>;

  test('of the resets that follow each other closely the first is told', () => {
    const life = new Lifecycle('running');
    expect([0, 400, 800, 1_400].map((at) => life.next(reset, at)?.kind)).toEqual([
      'rebooted',
      undefined,
      undefined,
      'rebooted',
    ]);
  });

  test.each([
    ['shutdown', 'shut down', {}],
    ['failed', 'QEMU was killed or crashed', {}],
    ['saved', 'saved; it goes on when it is restored', { elsewhere: true }],
    ['migrated', 'migrated to another host', { elsewhere: true }],
    ['unknown-9', 'ended: unknown-9', {}],
  ])('stopped %s: told once', (detail, reason, where) => {
    const life = new Lifecycle('running');
    expect(life.next(event('shutdown', 'guest'))).toBeUndefined();
    expect(life.next(event('stopped', detail))).toEqual({ kind: 'stopped', reason, ...where });
    expect(life.next(event('stopped', detail))).toBeUndefined();
    expect(life.next(reset)).toBeUndefined();
    expect(life.state).toBe('stopped');
  });

  test('paused and resumed, each once; a panic is not a pause', () => {
    const life = new Lifecycle('running');
    expect(life.next(event('resumed', 'unpaused'))).toBeUndefined();
    expect(life.next(event('suspended', 'paused'))).toEqual({ kind: 'paused' });
    expect(life.next(event('suspended', 'migrated'))).toBeUndefined();
    expect(life.next(event('resumed', 'unpaused'))).toEqual({ kind: 'resumed' });
    expect(life.next(event('crashed', 'panicked'))).toEqual({ kind: 'panicked' });
    expect(life.next(event('suspended', 'paused'))).toBeUndefined();
    expect(life.state).toBe('paused');
  });

  test('a panic that a crash kernel takes over is a dump, then a reboot', () => {
    const life = new Lifecycle('running');
    expect(life.next(event('crashed', 'crashloaded'))).toEqual({ kind: 'dumping' });
    expect(life.next(reset)).toEqual({ kind: 'rebooted' });
  });
});

describe('what a domain asks for', () => {
  test('probes with their parameters', () => {
    const xml =
      '<vesper:probes xmlns:vesper="urn:vesper:probes:1"><probe name="oom"/><probe name="signal"><parameter name="signals" value="SIGSEGV"/></probe></vesper:probes>';
    expect(askedProbes('web1', xml)).toEqual([
      { name: 'oom', parameters: {}, where: 'the metadata of web1' },
      { name: 'signal', parameters: { signals: 'SIGSEGV' }, where: 'the metadata of web1' },
    ]);
    expect(askedProbes('web1', '<probes/>')).toEqual([]);
  });

  test.each([
    ['<probe name="oom"/>', /no <probes>/],
    ['<probes><oom/></probes>', /only <probe> may stand in it/],
    ['<probes><probe/></probes>', /a probe without a name/],
    ['<probes><probe name="a b"/></probes>', /"a b" is no name of a probe/],
    ['<probes><probe name="a"><parameter name="x"/></probe></probes>', /the parameter x of a has no value/],
  ])('%s is refused with what to write', (xml, sentence) => {
    expect(() => askedProbes('web1', xml)).toThrow(sentence);
    expect(() => askedProbes('web1', xml)).toThrow(/write <probes><probe name="oom"\/><\/probes>$/);
  });
});
