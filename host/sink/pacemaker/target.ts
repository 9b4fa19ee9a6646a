// SPDX-License-Identifier: Apache-2.0

/** Which resource on which node an incident is about, as the cluster is now; or why nothing is to be called. */

import type { ClusterNode, ClusterResource, ClusterStatus } from './cluster-status.ts';
import { type MachineResource, resourceOf } from './machine-resources.ts';

export interface Guest {
  readonly name: string;
  readonly uuid: string;
}

export interface Where {
  /** Of this host; undefined: the guest may run on any. */
  readonly ownNode: string | undefined;
  /** Resources that are guests, by the name of the guest, where their configuration does not say it. */
  readonly vms: Readonly<Record<string, string>>;
  /** Guests that are remote nodes by themselves: the node, by the name of the guest. */
  readonly nodes?: Readonly<Record<string, string>> | undefined;
}

export type Refusal = 'no_resource' | 'no_node' | 'maintenance' | 'elsewhere' | 'not_active';

interface Refused {
  readonly kind: 'refused';
  readonly refusal: Refusal;
  readonly sentence: string;
}

export type Target =
  | {
      readonly kind: 'found';
      readonly resource: string;
      readonly node: string;
      /** Node that is to be fenced; the resource is its machine, or is called so, too, where the cluster has none that is. */
      readonly fence?: string;
    }
  | Refused
  /** The cluster is at work on it: look again. */
  | { readonly kind: 'busy'; readonly sentence: string };

const activeRoles: ReadonlySet<string> = new Set(['Started', 'Promoted', 'Unpromoted', 'Master', 'Slave']);

/** `wanted` is the resource that a rule names. */
export async function targetOf(
  guest: Guest,
  wanted: string | undefined,
  status: ClusterStatus,
  machines: readonly MachineResource[],
  where: Where,
): Promise<Target> {
  const ownMachine = where.vms[guest.name] ?? (await resourceOf(guest, machines));
  const guestNode = guestNodeOf(guest, ownMachine, status, machines, where);
  const machine = ownMachine ?? guestNode?.machineResource;
  const resource = wanted ?? machine;
  if (resource === undefined)
    return refused(
      'no_resource',
      `no resource of the cluster is ${guest.name}: name it in pacemaker.vms if one is`,
    );
  const instances = instancesOf(status, resource);
  if (instances.length === 0) return refused('no_resource', `the cluster has no resource ${resource}`);

  const machineInstances = machine === undefined ? [] : instancesOf(status, machine);
  for (const { id, pending, role } of [...instances, ...machineInstances]) {
    if (pending !== undefined && pending !== 'Monitoring') return busy(`${id} is ${pending}`);
    if (!activeRoles.has(role) && role !== 'Stopped') return busy(`${id} is ${role}`);
  }
  const machineNodes = machineInstances.flatMap(({ nodes }) => nodes);
  const { ownNode } = where;
  if (ownNode !== undefined && machineNodes.length > 0 && !machineNodes.includes(ownNode))
    return refused('elsewhere', `${machine} runs on ${machineNodes.join(', ')}, not on ${ownNode}`);

  const nodes = instances.flatMap((instance) => instance.nodes);
  if (nodes.length === 0) return refused('not_active', `${resource} is not active anywhere`);
  const allowed = [
    ...(guestNode !== undefined && resource !== machine ? [guestNode.name] : []),
    ...(ownNode === undefined ? (nodes.length === 1 ? nodes : []) : [ownNode]),
  ];
  const node = allowed.find((name) => nodes.includes(name));
  if (node === undefined)
    return refused('elsewhere', `${resource} runs on ${nodes.join(', ')}, not on ${allowed.join(' or ')}`);

  const maintained = status.nodes.some(
    ({ name, maintenance }) => maintenance && (name === node || machineNodes.includes(name)),
  );
  if (status.maintenance || maintained)
    return refused('maintenance', `${status.maintenance ? 'the cluster' : node} is in maintenance`);
  if ([...instances, ...machineInstances].some(({ managed }) => !managed))
    return refused('maintenance', `${resource} is not managed by the cluster`);
  return { kind: 'found', resource, node };
}

/**
 * The node that the guest is: that of its machine, or one that is called so. A host may be called like a guest, and a node is another
 * guest where its machine is another domain.
 */
function guestNodeOf(
  guest: Guest,
  ownMachine: string | undefined,
  { nodes }: ClusterStatus,
  machines: readonly MachineResource[],
  where: Where,
): ClusterNode | undefined {
  const called = where.nodes?.[guest.name] ?? guest.name;
  const others = new Set<string | undefined>(machines.map(({ resource }) => resource));
  return (
    nodes.find(({ machineResource }) => machineResource !== undefined && machineResource === ownMachine) ??
    nodes.find(
      ({ name, type, machineResource }) =>
        name === called &&
        type === 'remote' &&
        (machineResource === undefined || (ownMachine === undefined && !others.has(machineResource))),
    )
  );
}

const instancesOf = (status: ClusterStatus, id: string): readonly ClusterResource[] =>
  status.resources.filter((resource) => resource.id === id);

export const refused = (refusal: Refusal, sentence: string): Refused => ({
  kind: 'refused',
  refusal,
  sentence,
});
const busy = (sentence: string): Target => ({ kind: 'busy', sentence });
