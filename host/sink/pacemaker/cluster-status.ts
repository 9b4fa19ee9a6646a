// SPDX-License-Identifier: Apache-2.0

/** What `crm_mon --output-as=xml` says of the cluster, as far as an action needs it. */

import { type Element, parseXml } from './xml.ts';

export interface ClusterNode {
  readonly name: string;
  readonly online: boolean;
  readonly maintenance: boolean;
  /** `remote` is a guest node, too. */
  readonly type: string;
  /** Of a guest node: the resource that is its machine. */
  readonly machineResource: string | undefined;
}

export interface ClusterResource {
  readonly id: string;
  /** `ocf:heartbeat:VirtualDomain` */
  readonly agent: string;
  readonly role: string;
  readonly managed: boolean;
  /** An operation of it is under way: Starting, Migrating, Monitoring … */
  readonly pending: string | undefined;
  /** Names of the nodes it is active on. */
  readonly nodes: readonly string[];
}

/** What the history of a resource on a node looks like: it is another one as soon as the cluster did something. */
export interface HistoryMark {
  readonly lastCall: number;
  readonly failCount: number;
  readonly lastFailure: string;
}

export interface ResourceHistory extends HistoryMark {
  /** Call of the last successful start; −1: there is none. */
  readonly startCall: number;
  /**
   * Of the last successful start, in milliseconds since 1970, exact to a second; undefined: not known. By the clock of the node, which of
   * a guest node is the guest's.
   */
  readonly startedMs: number | undefined;
}

export interface ClusterStatus {
  readonly maintenance: boolean;
  /** `stonith-enabled`: otherwise the cluster has no use of its fencing devices. */
  readonly fencing: boolean;
  /** When and by whom the configuration was changed last; undefined: the cluster does not say. */
  readonly change: string | undefined;
  /** Without it nobody can be asked to recover anything. */
  readonly coordinator: boolean;
  readonly nodes: readonly ClusterNode[];
  /** Instances of clones have the same name. */
  readonly resources: readonly ClusterResource[];
  history(resource: string, node: string): ResourceHistory;
  /** Undefined where the node has no such attribute. */
  attribute(node: string, name: string): string | undefined;
}

/** Throws PROTOCOL where it is not what crm_mon writes. */
export function readStatus(xml: string): ClusterStatus {
  const root = parseXml(xml, 'pacemaker-result');
  const summary = root.child('summary');
  const options = summary?.child('cluster_options');
  return {
    maintenance: yes(options?.text('maintenance-mode')),
    fencing: yes(options?.text('stonith-enabled')),
    change: changeOf(summary?.child('last_change')),
    coordinator: yes(summary?.child('current_dc')?.text('present')),
    nodes: root.child('nodes')?.children('node').map(nodeOf) ?? [],
    resources: root.child('resources')?.descendants('resource').map(resourceOf) ?? [],
    history: (resource, node) => historyOf(root, resource, node),
    attribute: (node, name) => attributeOf(root, node, name),
  };
}

const changeOf = (element: Element | undefined): string | undefined =>
  element?.text('time') &&
  ['time', 'user', 'client', 'origin'].map((name) => element.text(name) ?? '').join('\0');

const yes = (text: string | undefined): boolean => text === 'true';

const nodeOf = (element: Element): ClusterNode => ({
  name: element.text('name') ?? '',
  online: yes(element.text('online')),
  maintenance: yes(element.text('maintenance')),
  type: element.text('type') ?? '',
  machineResource: element.text('id_as_resource'),
});

const resourceOf = (element: Element): ClusterResource => ({
  // Instances of unique clones are called NAME:NUMBER.
  id: (element.text('id') ?? '').replace(/:\d+$/, ''),
  agent: element.text('resource_agent') ?? '',
  role: element.text('role') ?? '',
  managed: element.text('managed') !== 'false' && !yes(element.text('maintenance')),
  pending: element.text('pending'),
  nodes: element.children('node').map((node) => node.text('name') ?? ''),
});

const ofName = (elements: readonly Element[], key: string, name: string): Element | undefined =>
  elements.find((element) => element.text(key) === name);

function historyOf(root: Element, resource: string, node: string): ResourceHistory {
  const onNode = ofName(root.child('node_history')?.children('node') ?? [], 'name', node);
  const history = onNode
    ?.children('resource_history')
    .find((element) => element.text('id')?.replace(/:\d+$/, '') === resource);
  const operations = history?.children('operation_history') ?? [];
  const started = operations.findLast(
    (operation) => operation.text('task') === 'start' && operation.text('rc') === '0',
  );
  const startedMs = Date.parse(started?.text('last-rc-change') ?? '');
  return {
    lastCall: Math.max(-1, ...operations.map((operation) => Number(operation.text('call') ?? -1))),
    // A count that reached the highest one is called so.
    failCount: Number(history?.text('fail-count')?.replace('INFINITY', '1000000') ?? 0),
    lastFailure: history?.text('last-failure') ?? '',
    startCall: Number(started?.text('call') ?? -1),
    startedMs: Number.isNaN(startedMs) ? undefined : startedMs,
  };
}

function attributeOf(root: Element, node: string, name: string): string | undefined {
  const onNode = ofName(root.child('node_attributes')?.children('node') ?? [], 'name', node);
  return ofName(onNode?.children('attribute') ?? [], 'name', name)?.text('value');
}
