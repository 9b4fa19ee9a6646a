// SPDX-License-Identifier: Apache-2.0

/**
 * Which node of the cluster an incident's guest is, and whether it may be fenced. A host of the cluster never is, whatever a guest is
 * called and whatever a rule says: only a guest node by the cluster's own configuration, or a remote node that `nodes` names.
 */

import type { ClusterNode, ClusterStatus } from './cluster-status.ts';
import type { MachineResource } from './machine-resources.ts';
import { type Guest, refused, type Target, targetOf, type Where } from './target.ts';

export async function fenceTargetOf(
  guest: Guest,
  status: ClusterStatus,
  machines: readonly MachineResource[],
  where: Where,
): Promise<Target> {
  const named = where.nodes?.[guest.name];
  if (named !== undefined) {
    const node = status.nodes.find(({ name }) => name === named);
    if (node === undefined) return refused('no_node', `the cluster has no node ${named}`);
    const reason = hostReason(node, status, machines, where);
    if (reason !== undefined) return refused('no_node', `${named} ${reason}: it is not fenced for a guest`);
    if (node.machineResource === undefined) {
      if (status.maintenance || node.maintenance)
        return refused('maintenance', `${status.maintenance ? 'the cluster' : named} is in maintenance`);
      return { kind: 'found', resource: named, node: named, fence: named };
    }
  }
  const target = await targetOf(guest, undefined, status, machines, where);
  if (target.kind !== 'found') return target;
  const node = status.nodes.find(({ machineResource }) => machineResource === target.resource);
  if (node === undefined)
    return refused('no_node', `${guest.name} is no node of the cluster: fail ${target.resource} instead`);
  if (named !== undefined && named !== node.name)
    return refused('no_node', `${guest.name} is the node ${node.name}, and not ${named}`);
  if (node.maintenance) return refused('maintenance', `${node.name} is in maintenance`);
  return { ...target, fence: node.name };
}

/** How a node shows that it carries guests rather than being one; undefined: it does not. */
function hostReason(
  node: ClusterNode,
  status: ClusterStatus,
  machines: readonly MachineResource[],
  { ownNode }: Where,
): string | undefined {
  if (node.name === ownNode) return 'is this host';
  if (node.type !== 'remote') return 'is a full member of the cluster';
  const carried = status.resources.find(
    ({ id, nodes }) => nodes.includes(node.name) && machines.some(({ resource }) => resource === id),
  );
  return carried && `carries the machine ${carried.id}`;
}
