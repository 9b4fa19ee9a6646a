// SPDX-License-Identifier: Apache-2.0

import { userInfo } from 'node:os';
import { VesperError } from '../error.ts';

export interface SshTarget {
  readonly user: string;
  readonly host: string;
  readonly port: number;
}

const defaultPort = 22;

/** `[USER@]HOST[:PORT]`; an IPv6 address with a port stands in brackets. Throws `USAGE`. */
export function parseSshTarget(text: string): SshTarget {
  const match =
    /^(?:(?<user>[^@\s]+)@)?(?:\[(?<six>[0-9A-Fa-f:.%\w]+)\]|(?<bare>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)|(?<host>[^@:\s[\]]+))(?::(?<port>\d{1,5}))?$/.exec(
      text,
    );
  const { user, six, bare, host, port } = match?.groups ?? {};
  const name = six ?? bare ?? host;
  const number = port === undefined ? defaultPort : Number(port);
  if (name === undefined || name.startsWith('-') || number < 1 || number > 65_535) {
    throw new VesperError('USAGE', `--ssh ${text}: write USER@HOST or USER@HOST:PORT`);
  }
  return { user: user ?? userInfo().username, host: name, port: number };
}

/** As known_hosts names it. */
export const knownHostName = ({ host, port }: SshTarget): string =>
  port === defaultPort ? host : `[${host}]:${port}`;

/** What a person types to get there with OpenSSH. */
export const sshCommand = ({ user, host, port }: SshTarget): string =>
  `ssh ${port === defaultPort ? '' : `-p ${port} `}${user}@${host}`;
