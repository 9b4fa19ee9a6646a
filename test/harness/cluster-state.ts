// SPDX-License-Identifier: Apache-2.0

/** What `crm_mon` says, as far as tests look at it. */
export interface ClusterState {
  /** The node whose controller decides. */
  readonly dc: string | undefined;
  readonly nodes: readonly NodeState[];
  /** Primitives, also those within groups and clones. */
  readonly resources: readonly ResourceState[];
  /** Of each node, resource and kind of operation the last ones, as they are in the history. */
  readonly operations: readonly Operation[];
  readonly failures: readonly Failure[];
}

export interface NodeState {
  readonly name: string;
  readonly online: boolean;
  readonly maintenance: boolean;
}

export interface ResourceState {
  readonly id: string;
  readonly role: string;
  readonly failed: boolean;
  readonly managed: boolean;
  readonly nodes: readonly string[];
}

export interface Operation {
  readonly node: string;
  readonly resource: string;
  readonly task: string;
  readonly call: number;
  readonly status: number;
}

/** What the cluster shows a person until it is cleaned up. */
export interface Failure {
  /** Resource, task and interval in ms. */
  readonly key: string;
  readonly node: string;
  readonly reason: string;
}

/** Reads `crm_mon --output-as=xml`. */
export function clusterState(xml: string): ClusterState {
  const dc = elements(xml, 'current_dc')[0]?.attributes;
  return {
    dc: dc?.['present'] === 'true' ? dc['name'] : undefined,
    nodes: elements(elements(xml, 'nodes')[0]?.content ?? '', 'node').map(({ attributes }) => ({
      name: attributes['name'] ?? '',
      online: attributes['online'] === 'true' && attributes['pending'] === 'false',
      maintenance: attributes['maintenance'] === 'true',
    })),
    resources: elements(xml, 'resource').map(({ attributes, content }) => ({
      id: attributes['id'] ?? '',
      role: attributes['role'] ?? '',
      failed: attributes['failed'] === 'true',
      managed: attributes['managed'] === 'true',
      nodes: elements(content, 'node').map((node) => node.attributes['name'] ?? ''),
    })),
    operations: elements(elements(xml, 'node_history')[0]?.content ?? '', 'node').flatMap((node) =>
      elements(node.content, 'resource_history').flatMap((resource) =>
        elements(resource.content, 'operation_history').map(({ attributes }) => ({
          node: node.attributes['name'] ?? '',
          resource: resource.attributes['id'] ?? '',
          task: attributes['task'] ?? '',
          call: Number(attributes['call']),
          status: Number(attributes['rc']),
        })),
      ),
    ),
    failures: elements(xml, 'failure').map(({ attributes }) => ({
      key: attributes['op_key'] ?? '',
      node: attributes['node'] ?? '',
      reason: attributes['exitreason'] ?? '',
    })),
  };
}

interface Element {
  readonly attributes: Readonly<Record<string, string>>;
  readonly content: string;
}

/** The elements of a name, none of which holds another of that name. */
function elements(xml: string, name: string): readonly Element[] {
  const pattern = new RegExp(`<${name}((?: [\\w-]+="[^"]*")*)\\s*(?:/>|>(.*?)</${name}>)`, 'gs');
  return [...xml.matchAll(pattern)].map(([, attributes = '', content = '']) => ({
    attributes: Object.fromEntries(
      [...attributes.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, key = '', value = '']) => [key, value]),
    ),
    content,
  }));
}
