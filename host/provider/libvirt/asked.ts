// SPDX-License-Identifier: Apache-2.0

/**
 * Which probes a domain asks for in its own metadata:
 *
 *   <vesper:probes xmlns:vesper="urn:vesper:probes:1">
 *     <probe name="oom"/>
 *     <probe name="signal"><parameter name="signals" value="SIGSEGV"/></probe>
 *   </vesper:probes>
 */

import { messageOf, VesperError } from '../../error.ts';
import type { AskedProbe } from '../provider.ts';
import type { Element } from './xml.ts';
import { parseXml } from './xml.ts';

export const metadataUri = 'urn:vesper:probes:1';

const probeName = /^[\w-]{1,55}$/;
const example = '<probes><probe name="oom"/></probes>';

/** Throws USAGE, naming the guest and what may stand there. */
export function askedProbes(guest: string, xml: string): readonly AskedProbe[] {
  const where = `the metadata of ${guest}`;
  const refuse = (why: string): never => {
    throw new VesperError('USAGE', `${where} (${metadataUri}): ${why}: write ${example}`, {
      data: { guest },
    });
  };
  let root: Element;
  try {
    root = parseXml(xml, 'probes');
  } catch (thrown) {
    return refuse(messageOf(thrown));
  }
  const strange = root.children().length - root.all('probe').length;
  if (strange > 0) refuse('only <probe> may stand in it');
  return root.all('probe').map((probe) => {
    const name = probe.attribute('name') ?? refuse('a probe without a name');
    if (!probeName.test(name)) refuse(`"${name}" is no name of a probe`);
    const parameters = probe.all('parameter').map((one): [string, string] => {
      const key = one.attribute('name') ?? refuse(`a parameter of ${name} without a name`);
      return [key, one.attribute('value') ?? refuse(`the parameter ${key} of ${name} has no value`)];
    });
    return { name, parameters: Object.fromEntries(parameters), where };
  });
}
