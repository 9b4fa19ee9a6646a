// SPDX-License-Identifier: Apache-2.0

/** What a real cluster of Pacemaker 2.1.5 said, and what is read from it. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { readStatus } from '../../host/sink/pacemaker/cluster-status.ts';
import { fenceTargetOf } from '../../host/sink/pacemaker/fence-target.ts';
import { readFenceDevices, readFenceHistory } from '../../host/sink/pacemaker/fencing.ts';
import { readMachineResources, resourceOf } from '../../host/sink/pacemaker/machine-resources.ts';
import { targetOf } from '../../host/sink/pacemaker/target.ts';
import { recordedXml } from '../harness/stand-in-cluster.ts';

const web1 = { name: 'web1', uuid: '6a4a2e52-0000-4000-8000-000000000001' };
const where = { ownNode: 'node1', vms: {} };
const status = (name: string) => readStatus(recordedXml(name));
const machines = readMachineResources(recordedXml('cib'));

describe('the status', () => {
  test('nodes, also the one that is a guest', () => {
    expect(status('running')).toMatchObject({ maintenance: false, fencing: false, coordinator: true });
    expect(status('running').nodes).toMatchObject([
      { name: 'node1', online: true, maintenance: false, machineResource: undefined },
      { name: 'node2', online: true },
      { name: 'web1', online: false, type: 'remote', machineResource: 'vm-web1' },
    ]);
  });

  test('resources, also those within groups and clones', () => {
    const found = status('running').resources.map(({ id, role, nodes }) => [id, role, ...nodes]);
    expect(found).toContainEqual(['web', 'Started', 'node1']);
    expect(found).toContainEqual(['db', 'Started', 'node2']);
    expect(found).toContainEqual(['each', 'Started', 'node1']);
    expect(found).toContainEqual(['each', 'Started', 'node2']);
    expect(found).toContainEqual(['vm-web1', 'Stopped']);
  });

  test('a failure leaves another history, and a start that is newer', () => {
    const before = status('running').history('web', 'node1');
    const after = status('failed').history('web', 'node1');
    expect(before).toMatchObject({ failCount: 0, lastFailure: '' });
    expect(after).toMatchObject({ failCount: 2, lastFailure: 'Sat Nov 21 16:40:23 2026', lastCall: 27 });
    expect(after.startedMs).toBe(Date.parse('Sat Nov 21 16:40:23 2026'));
    expect(status('failed').history('web', 'node2').lastCall).toBe(-1);
    expect(status('failed').attribute('node1', 'vesper-web')).toMatch(/signal.died comm=httpd/);
    expect(status('failed').attribute('node2', 'vesper-web')).toBeUndefined();
  });

  test.each(['', 'no XML', '<cib/>', '<pacemaker-result><nodes>', '{"a":1}'])('%j is none', (xml) => {
    expect(() => readStatus(xml)).toThrow(expect.objectContaining({ code: 'PROTOCOL' }));
  });
});

describe('which resource is a guest', () => {
  test('a VirtualDomain by the file it is configured with, by its name where it cannot be read', async () => {
    expect(machines).toEqual([{ resource: 'vm-web1', config: '/etc/libvirt/qemu/web1.xml' }]);
    expect(await resourceOf(web1, machines)).toBe('vm-web1');
    expect(await resourceOf({ ...web1, name: 'web2' }, machines)).toBeUndefined();
  });

  test('by the UUID and name that stand in the file', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const config = join(directory, 'any.xml');
    const here = [{ resource: 'r', config }];
    writeFileSync(config, `<domain><name>web1</name><uuid>${web1.uuid.toUpperCase()}</uuid></domain>`);
    expect(await resourceOf(web1, here)).toBe('r');
    expect(await resourceOf({ ...web1, uuid: 'another' }, here)).toBeUndefined();
    writeFileSync(config, '<domain><name>web1</name></domain>');
    expect(await resourceOf(web1, here)).toBe('r');
  });
});

/** As it is recorded, but for the guest node, which runs what was placed on it. */
const inside = recordedXml('running')
  .replace(/(<resource id="web" [^>]*>\s*)<node name="node1" id="1"/, '$1<node name="web1" id="web1"')
  .replace(
    /<resource id="vm-web1"([^>]*)role="Stopped"([^>]*)\/>/,
    '<resource id="vm-web1"$1role="Started"$2><node name="node1" id="1" cached="true"/></resource>',
  );
/** As if the node had no machine that is a resource. */
const remote = recordedXml('running').replace(' id_as_resource="vm-web1"', '');

describe('the target', () => {
  const target = (wanted: string | undefined, name = 'running', at = where, guest = web1) =>
    targetOf(guest, wanted, status(name), machines, at);

  test('a resource on the node of this host', async () => {
    expect(await target('web')).toEqual({ kind: 'found', resource: 'web', node: 'node1' });
    expect(await target('each')).toEqual({ kind: 'found', resource: 'each', node: 'node1' });
    expect(await target('each', 'running', { ...where, ownNode: 'node2' })).toMatchObject({ node: 'node2' });
  });

  test('a resource in a guest node, and the machine itself', async () => {
    const now = readStatus(inside);
    expect(await targetOf(web1, 'web', now, machines, where)).toEqual({
      kind: 'found',
      resource: 'web',
      node: 'web1',
    });
    expect(await targetOf(web1, undefined, now, machines, where)).toMatchObject({
      resource: 'vm-web1',
      node: 'node1',
    });
    const elsewhere = { ...where, ownNode: 'node2' };
    expect(await targetOf(web1, 'web', now, machines, elsewhere)).toMatchObject({ refusal: 'elsewhere' });
    // What runs in another guest is not this one's.
    const other = { name: 'web2', uuid: 'another' };
    expect(await targetOf(other, 'web', now, machines, where)).toMatchObject({ refusal: 'elsewhere' });
    expect(await targetOf(other, undefined, now, machines, where)).toMatchObject({ refusal: 'no_resource' });
    const migrating = readStatus(inside.replace('id="vm-web1" ', 'id="vm-web1" pending="Migrating" '));
    expect(await targetOf(web1, 'web', migrating, machines, where)).toMatchObject({ kind: 'busy' });
    const unmanaged = readStatus(inside.replaceAll('managed="true"', 'managed="false"'));
    expect(await targetOf(web1, 'web', unmanaged, machines, where)).toMatchObject({ refusal: 'maintenance' });
  });

  test('none: why', async () => {
    expect(await target('db')).toMatchObject({ refusal: 'elsewhere' });
    expect(await target('nothing')).toMatchObject({ refusal: 'no_resource' });
    expect(await target(undefined)).toMatchObject({ refusal: 'not_active' });
    expect(await target('web', 'maintenance')).toMatchObject({ refusal: 'maintenance' });
  });

  test('a guest that is called like a host, or like the node of another guest, is neither', async () => {
    const now = readStatus(inside.replace('<node name="web1" id="web1"', '<node name="node2" id="2"'));
    const asHost = { name: 'node2', uuid: 'another' };
    expect(await targetOf(asHost, 'web', now, machines, where)).toMatchObject({ refusal: 'elsewhere' });
    const othersMachine = [{ resource: 'vm-web1', config: '/etc/libvirt/qemu/another.xml' }];
    const inWeb1 = readStatus(inside);
    expect(await targetOf(web1, 'web', inWeb1, othersMachine, where)).toMatchObject({ refusal: 'elsewhere' });
  });

  test('a guest that is a remote node by itself', async () => {
    const now = readStatus(inside.replace(' id_as_resource="vm-web1"', ''));
    expect(await targetOf(web1, 'web', now, [], where)).toMatchObject({ node: 'web1' });
    const other = { name: 'vm7', uuid: 'another' };
    const named = { ...where, nodes: { vm7: 'web1' } };
    expect(await targetOf(other, 'web', now, [], named)).toMatchObject({ node: 'web1' });
  });
});

describe('the node that is to be fenced', () => {
  const fence = (xml: string, more = {}, guest = web1, of = machines) =>
    fenceTargetOf(guest, readStatus(xml), of, { ...where, ...more });

  test('is the guest node of the machine', async () => {
    expect(await fence(inside)).toEqual({ kind: 'found', resource: 'vm-web1', node: 'node1', fence: 'web1' });
    expect(await fence(inside, { nodes: { web1: 'web1' } })).toMatchObject({ fence: 'web1' });
    expect(await fence(inside, { ownNode: 'node2' })).toMatchObject({ refusal: 'elsewhere' });
    expect(await fence(recordedXml('running'))).toMatchObject({ refusal: 'not_active' });
  });

  test('is a remote node that is named', async () => {
    expect(await fence(remote, { nodes: { web1: 'web1' } })).toEqual({
      kind: 'found',
      resource: 'web1',
      node: 'web1',
      fence: 'web1',
    });
    // Whoever is only called so is not fenced.
    expect(await fence(remote, {}, { name: 'web1', uuid: 'another' }, [])).toMatchObject({
      refusal: 'no_resource',
    });
  });

  test('is not one in maintenance', async () => {
    const maintained = remote.replace(/(name="web1" .*)maintenance="false"/, '$1maintenance="true"');
    expect(await fence(maintained, { nodes: { web1: 'web1' } })).toMatchObject({ refusal: 'maintenance' });
    const all = inside.replace('maintenance-mode="false"', 'maintenance-mode="true"');
    expect(await fence(all)).toMatchObject({ refusal: 'maintenance' });
  });

  test.each([
    ['node1', 'node1 is this host: it is not fenced for a guest'],
    ['node2', 'node2 is a full member of the cluster: it is not fenced for a guest'],
    ['nowhere', 'the cluster has no node nowhere'],
  ])('is no host, nor none: %s', async (node, sentence) => {
    expect(await fence(inside, { nodes: { web1: node } })).toEqual({
      kind: 'refused',
      refusal: 'no_node',
      sentence,
    });
  });

  test('is no remote node that carries machines', async () => {
    const carrying = inside
      .replace(' id_as_resource="vm-web1"', '')
      .replace(/(<resource id="vm-web1"[^>]*>)<node name="node1" id="1"/, '$1<node name="web1" id="web1"');
    expect(await fence(carrying, { nodes: { web1: 'web1' } })).toMatchObject({
      refusal: 'no_node',
      sentence: 'web1 carries the machine vm-web1: it is not fenced for a guest',
    });
  });

  test('what a device did, and whether there is one', () => {
    expect(readFenceHistory(recordedXml('fence-history'))).toEqual([
      { status: 'success', completedMs: Date.parse('2026-11-30T23:40:38Z') },
      { status: 'failed', completedMs: Date.parse('2026-11-30T23:40:37Z') },
    ]);
    expect(readFenceHistory(recordedXml('fence-no-history'))).toEqual([]);
    expect(readFenceDevices(recordedXml('fence-devices'))).toEqual(['fence']);
    expect(readFenceDevices(recordedXml('fence-no-devices'))).toEqual([]);
  });
});
