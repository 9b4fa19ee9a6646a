// SPDX-License-Identifier: Apache-2.0

/**
 * QEMU's own monitor through libvirt, for the one thing that libvirt does not tell: where the RAM of a guest lies in its file. libvirt
 * notes in the domain's log that its monitor was used (the domain is "tainted").
 */

import { readdir, readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { VesperError } from '../../error.ts';
import type { Monitor } from '../qemu/ram.ts';
import type { DomainSite } from './devices.ts';
import type { DomainDevices } from './domain-xml.ts';
import { qemuUser } from './uri.ts';

const answerShape = z.union([
  z.object({ return: z.unknown() }),
  z.object({ error: z.object({ class: z.string(), desc: z.string() }) }),
]);

/** Throws PROVIDER where the domain's RAM is not shared: then there is nothing to ask for. */
export async function monitorOf(site: DomainSite, devices: DomainDevices): Promise<Monitor> {
  const { name, uuid, link } = site;
  if (!devices.sharedRam) {
    const message = `${name}: its RAM is not shared: virsh edit ${name}: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>, which holds from its next start`;
    throw new VesperError('PROVIDER', message, { data: { guest: name } });
  }
  const { uid } = await qemuUser(link.uri, devices);
  return {
    version: `of ${name}`,
    pid: await processOf(uuid, uid),
    closed: false,
    async execute<T>(
      command: string,
      args: Readonly<Record<string, unknown>> = {},
      shape: z.ZodType<T> = z.unknown() as z.ZodType<T>,
    ): Promise<T> {
      const text = await link.onDomain(site, `QEMU's ${command}`, (domain) =>
        domain.monitorCommand(JSON.stringify({ execute: command, arguments: args })),
      );
      const answer = answerShape.parse(JSON.parse(text));
      if ('return' in answer) return shape.parse(answer.return);
      const { desc } = answer.error;
      const message = `${name}: QEMU refused ${command}: ${desc}`;
      throw new VesperError('PROVIDER', message, { data: { guest: name, command, desc } });
    },
  };
}

/**
 * The QEMU of a domain: libvirt tells it its UUID on the command line. Only processes of its user count: another's may say what it
 * likes.
 */
async function processOf(uuid: string, uid: number): Promise<number | undefined> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      const at = words.indexOf('-uuid');
      if (at < 0 || words[at + 1] !== uuid) return [];
      const owner = await stat(`/proc/${pid}`).catch(() => undefined);
      return owner === undefined || owner.uid !== uid ? [] : [Number(pid)];
    }),
  );
  const all = found.flat();
  return all.length === 1 ? all[0] : undefined;
}
