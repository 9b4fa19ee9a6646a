// SPDX-License-Identifier: Apache-2.0

/** Which resource of the cluster is which guest: VirtualDomain resources name the file that defines their domain. */

import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { type Element, parseXml } from './xml.ts';

export interface MachineResource {
  readonly resource: string;
  /** Path of the definition of the domain. */
  readonly config: string;
}

/** Of what `cibadmin --query` gives; throws PROTOCOL where it is something else. */
export function readMachineResources(xml: string): readonly MachineResource[] {
  const root = parseXml(xml, 'cib').child('configuration')?.child('resources');
  const templates = root?.children('template') ?? [];
  return (root?.descendants('primitive') ?? []).flatMap((primitive) => {
    const template = templates.find((one) => one.text('id') === primitive.text('template'));
    const type = primitive.text('type') ?? template?.text('type');
    const config = parameter(primitive, 'config') ?? (template && parameter(template, 'config'));
    const resource = primitive.text('id');
    if (type !== 'VirtualDomain' || config === undefined || resource === undefined) return [];
    return [{ resource, config }];
  });
}

function parameter(element: Element, name: string): string | undefined {
  return element
    .children('instance_attributes')
    .flatMap((set) => set.children('nvpair'))
    .find((pair) => pair.text('name') === name)
    ?.text('value');
}

/** The resource that is the guest; undefined: none. A definition that cannot be read here is known by the name of its file. */
export async function resourceOf(
  guest: { readonly name: string; readonly uuid: string },
  machines: readonly MachineResource[],
): Promise<string | undefined> {
  const matching = await Promise.all(
    machines.map(async ({ config }) => {
      const domain = await domainOf(config);
      return domain.uuid === undefined ? domain.name === guest.name : domain.uuid === guest.uuid;
    }),
  );
  return machines.find((_, at) => matching[at] === true)?.resource;
}

async function domainOf(path: string): Promise<{ readonly name: string; readonly uuid: string | undefined }> {
  const name = basename(path).replace(/\.xml$/, '');
  try {
    const domain = parseXml(await readFile(path, 'utf8'), 'domain');
    return {
      name: domain.child('name')?.content.trim() || name,
      uuid: domain.child('uuid')?.content.trim().toLowerCase() || undefined,
    };
  } catch {
    // Not there, or not readable to us: what it is called has to do.
    return { name, uuid: undefined };
  }
}
