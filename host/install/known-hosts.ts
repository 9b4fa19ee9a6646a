// SPDX-License-Identifier: Apache-2.0

/** Host keys that are known: the files of OpenSSH, sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT". */

import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { appendFileSync, mkdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { VesperError } from '../error.ts';

export interface KnownKey {
  readonly marker: '' | '@revoked' | '@cert-authority';
  /** `ssh-ed25519`, `ssh-rsa`, … */
  readonly type: string;
  readonly key: Buffer;
  /** FILE:LINE. */
  readonly place: string;
}

/** What is known of a host's key. */
export type Verdict =
  | { readonly kind: 'known' | 'unknown' }
  | { readonly kind: 'revoked' | 'changed'; readonly place: string };

/** Where the user's and the machine's known keys are; the first is where new ones go. */
export const defaultKnownHosts = (): readonly string[] => [
  join(homedir(), '.ssh/known_hosts'),
  '/etc/ssh/ssh_known_hosts',
];

/** The keys that the files hold for a host, named as in `knownHostName`. A file that is not there holds none. */
export function knownKeys(files: readonly string[], host: string): readonly KnownKey[] {
  return files.flatMap((file) =>
    textOf(file)
      .split('\n')
      .flatMap((line, at) => keyOf(line, host, `${file}:${at + 1}`)),
  );
}

/** Signing keys of host certificates are passed over: certificates are not offered to us. */
export function judge(known: readonly KnownKey[], offered: Buffer): Verdict {
  const same = known.filter(({ key }) => key.equals(offered));
  const revoked = same.find(({ marker }) => marker === '@revoked');
  if (revoked !== undefined) return { kind: 'revoked', place: revoked.place };
  if (same.some(({ marker }) => marker === '')) return { kind: 'known' };
  const other = known.find(({ marker }) => marker === '');
  return other === undefined ? { kind: 'unknown' } : { kind: 'changed', place: other.place };
}

/** Remembers a key; the file is made where there is none. */
export function remember(file: string, host: string, key: Buffer): void {
  const before = textOf(file);
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const newline = before === '' || before.endsWith('\n') ? '' : '\n';
  appendFileSync(file, `${newline}${host} ${keyType(key)} ${key.toString('base64')}\n`, { mode: 0o600 });
}

/** As `ssh-keygen -l` prints it. */
export const fingerprint = (key: Buffer): string =>
  `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;

/** The name of its type stands at the head of a key (RFC 4253, 6.6). */
export function keyType(key: Buffer): string {
  const length = key.length < 4 ? 0 : key.readUInt32BE(0);
  return key.subarray(4, 4 + Math.min(length, 64)).toString('latin1');
}

function keyOf(line: string, host: string, place: string): readonly KnownKey[] {
  const words = line.trim().split(/\s+/);
  const first = words[0] ?? '';
  if (first === '' || first.startsWith('#')) return [];
  const marker = first === '@revoked' || first === '@cert-authority' ? first : '';
  const [hosts, type, base64] = marker === '' ? words : words.slice(1);
  if (hosts === undefined || type === undefined || base64 === undefined) return [];
  if (!(hosts.startsWith('|1|') ? hashMatches(hosts, host) : listMatches(hosts, host))) return [];
  return [{ marker, type, key: Buffer.from(base64, 'base64'), place }];
}

/** `|1|SALT|HASH`: HMAC-SHA1 of the name. */
function hashMatches(hashed: string, host: string): boolean {
  const [salt = '', hash = ''] = hashed.slice('|1|'.length).split('|');
  const wanted = Buffer.from(hash, 'base64');
  const got = createHmac('sha1', Buffer.from(salt, 'base64')).update(host.toLowerCase()).digest();
  return wanted.length === got.length && timingSafeEqual(wanted, got);
}

/** Patterns with * and ?, parted by commas; one that begins with ! and matches outweighs all. */
function listMatches(list: string, host: string): boolean {
  const name = host.toLowerCase();
  const patterns = list.toLowerCase().split(',');
  const matches = (pattern: string): boolean =>
    new RegExp(
      `^${pattern
        .replace(/[.+^${}()|[\]\\]/g, '\\$&')
        .replaceAll('*', '.*')
        .replaceAll('?', '.')}$`,
    ).test(name);
  return (
    patterns.some((pattern) => !pattern.startsWith('!') && matches(pattern)) &&
    !patterns.some((pattern) => pattern.startsWith('!') && matches(pattern.slice(1)))
  );
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (thrown) {
    const { code, message } = thrown as NodeJS.ErrnoException;
    if (code === 'ENOENT') return '';
    throw new VesperError('HOST', `the known host keys cannot be read: ${message}`, { cause: thrown });
  }
}
