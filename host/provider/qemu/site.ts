// SPDX-License-Identifier: Apache-2.0

/** Where and for whom the files of one machine are made. */

import { createHash } from 'node:crypto';
import { chmod, chown, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import type { QmpClient } from './qmp.ts';

/** Hands files that QEMU has to open to the user it runs as. */
export interface Owner {
  give(path: string): Promise<void>;
}

/** Where things of one machine are done. */
export interface Site {
  /** The machine's name, for messages. */
  readonly name: string;
  readonly qmp: QmpClient;
  /** Private folder for the port's socket. */
  readonly folder: string;
  /** Path of region files, without their random end. */
  readonly regionPrefix: string;
  /** Of the files that stand for a region where records come over the channel. */
  readonly shadowPrefix: string;
  readonly owner: Owner;
  readonly unplugLimitMs: number;
  /** Unix socket of the process that does the machine's vsock, if it is one and somebody said where. */
  readonly hybridVsockPath?: string | undefined;
  readonly log: Logger;
}

/** Names in the file system that belong to one machine at one monitor. */
export function placesOf(
  machine: { readonly name: string; readonly uuid: string },
  qmpPath: string,
  directories: { readonly run: string; readonly region: string },
): Pick<Site, 'folder' | 'regionPrefix' | 'shadowPrefix'> {
  const readable = machine.name.replace(/[^A-Za-z0-9_.-]/g, '_').slice(0, 24);
  const digest = createHash('sha256').update(`${machine.uuid} ${qmpPath}`).digest('hex').slice(0, 8);
  const key = `${readable}-${digest}`;
  return {
    folder: join(directories.run, key),
    regionPrefix: join(directories.region, `vesper-${key}`),
    shadowPrefix: join(directories.region, `vesper-${readable}.inline-${digest}`),
  };
}

/** QEMU runs as whoever owns its monitor's socket. */
export async function ownerOf(qmpPath: string): Promise<Owner> {
  const { uid, gid } = await stat(qmpPath);
  return ownerWith(uid, gid);
}

/** For a QEMU that runs as this user. */
export function ownerWith(uid: number, gid: number): Owner {
  return {
    give: async (path) => {
      try {
        if (uid !== process.getuid?.()) await chown(path, uid, gid);
        await chmod(path, (await stat(path)).isDirectory() ? 0o700 : 0o600);
      } catch (error) {
        const message = `${path} cannot be given to the user ${uid} that QEMU runs as: run the service as root or as that user`;
        throw new VesperError('PROVIDER', message, { cause: error, data: { path, uid } });
      }
    },
  };
}
