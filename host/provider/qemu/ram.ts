// SPDX-License-Identifier: Apache-2.0

/**
 * The RAM of a QEMU that keeps it in a shared memory backend. The file is opened through QEMU's own descriptor: a memfd has no path,
 * and a path may meanwhile lead to another file. Where guest memory lies in it is read from QEMU's memory map.
 */

import { closeSync, openSync } from 'node:fs';
import { readdir, readlink, stat } from 'node:fs/promises';
import { z } from 'zod';
import { messageOf, VesperError } from '../../error.ts';
import type { SharedRam } from '../provider.ts';
import { type QmpClient, refusalText } from './qmp.ts';
import { property, textProperty } from './qom.ts';

interface Backend {
  /** In the object model: `/objects/ram`. */
  readonly path: string;
  readonly bytes: number;
  /** What QEMU's descriptor of the memory leads to, without what the kernel appends. */
  readonly file: string;
}

/** A part of guest physical memory that lies in the backend, in one piece. */
export interface RamRange {
  readonly address: bigint;
  readonly bytes: bigint;
  readonly offset: bigint;
}

/** What is needed of QEMU's monitor. */
export type Monitor = Pick<QmpClient, 'execute' | 'version' | 'pid' | 'closed'>;

const advice =
  "start it with \"-object memory-backend-memfd,id=ram,share=on,size=SIZE -machine memory-backend=ram\", or in libvirt with <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";

/** Throws PROVIDER where the RAM is not shared, or cannot be got at. */
export async function openSharedRam({
  name,
  qmp,
}: {
  readonly name: string;
  readonly qmp: Monitor;
}): Promise<SharedRam> {
  const refuse = (why: string, cause?: unknown): never => {
    throw new VesperError('PROVIDER', `${name}: ${why}`, { cause, data: { guest: name } });
  };
  const backend = (await backendOf(qmp)) ?? refuse(`its RAM is not shared: ${advice}`);
  const ranges = ramRanges(await memoryMap(qmp), backend.path);
  if (ranges.length === 0) refuse(`QEMU ${qmp.version} tells nothing of ${backend.path} in its memory map`);
  const pid = qmp.pid ?? refuse('which process its QEMU is cannot be told');
  let found: string | undefined;
  try {
    found = await descriptorOf(pid, backend);
  } catch (thrown) {
    refuse(
      `its RAM is shared, but only root and the user of its QEMU can open it (${messageOf(thrown)})`,
      thrown,
    );
  }
  const path = found ?? refuse(`its QEMU (process ${pid}) has no one file that is its RAM`);
  let fd = -1;
  try {
    fd = openSync(path, 'r+');
  } catch (thrown) {
    refuse(`its RAM cannot be opened: ${messageOf(thrown)}`, thrown);
  }
  // While the monitor's connection stood, the process was QEMU.
  if (qmp.closed) {
    closeSync(fd);
    refuse('its QEMU went away');
  }
  let open = true;
  return {
    description: `RAM of QEMU ${pid} (${backend.file})`,
    fd,
    offsetOf: (address, bytes) => offsetIn(ranges, address, bytes),
    close: () => {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** The one backend of all of the machine's RAM; undefined where there is none, or it is not shared. */
async function backendOf(qmp: Monitor): Promise<Backend | undefined> {
  try {
    const named = await textProperty(qmp, '/machine', 'memory-backend');
    if (named === '') return undefined;
    const path = named.startsWith('/') ? named : `/objects/${named}`;
    const [type, share, bytes] = await Promise.all([
      textProperty(qmp, path, 'type'),
      property(qmp, path, 'share', z.boolean()),
      property(qmp, path, 'size', z.number()),
    ]);
    if (!share) return undefined;
    if (type === 'memory-backend-memfd') return { path, bytes, file: '/memfd:memory-backend-memfd' };
    if (type !== 'memory-backend-file') return undefined;
    return { path, bytes, file: await textProperty(qmp, path, 'mem-path') };
  } catch (thrown) {
    if (refusalText(thrown) === '') throw thrown;
    return undefined; // a machine without such a property has no shared RAM either
  }
}

const memoryMap = (qmp: Monitor): Promise<string> =>
  qmp.execute('human-monitor-command', { 'command-line': 'info mtree -f' }, z.string());

const flatRange =
  /^ {2}([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\): (.+?)(?: @([0-9a-f]{16}))?(?: KVM)?\r?$/gm;

/** Where a backend shows in guest physical memory, of the text of `info mtree -f`. */
export function ramRanges(map: string, backendPath: string): readonly RamRange[] {
  const view = map.split(/^FlatView #/m).find((text) => / AS "memory", root: system/.test(text)) ?? '';
  const names = [backendPath, backendPath.slice(backendPath.lastIndexOf('/') + 1)];
  return [...view.matchAll(flatRange)].flatMap(([, first, last, region, offset]) => {
    if (!names.includes(region ?? '')) return [];
    const address = BigInt(`0x${first}`);
    return [{ address, bytes: BigInt(`0x${last}`) - address + 1n, offset: BigInt(`0x${offset ?? '0'}`) }];
  });
}

export function offsetIn(ranges: readonly RamRange[], address: bigint, bytes: bigint): number | undefined {
  const range = ranges.find(
    (one) => one.address <= address && bytes <= one.bytes && address - one.address <= one.bytes - bytes,
  );
  return range && Number(range.offset + (address - range.address));
}

/** Path of QEMU's descriptor of the memory; undefined where none, or more than one file, looks like it. */
async function descriptorOf(pid: number, { file, bytes }: Backend): Promise<string | undefined> {
  const folder = `/proc/${pid}/fd`;
  const files = new Map<string, string>();
  for (const name of await readdir(folder)) {
    const path = `${folder}/${name}`;
    // QEMU opens and closes others meanwhile.
    const target = await readlink(path).catch(() => '');
    if (target !== file && target !== `${file} (deleted)` && !target.startsWith(`${file}/`)) continue;
    const status = await stat(path).catch(() => undefined);
    if (status?.isFile() && status.size >= bytes) files.set(`${status.dev}:${status.ino}`, path);
  }
  return files.size === 1 ? files.values().next().value : undefined;
}
