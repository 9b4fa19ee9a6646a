// SPDX-License-Identifier: Apache-2.0

/** Host keys as OpenSSH's files hold them, and where somebody wants to log in. */

import { createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { fingerprint, judge, keyType, knownKeys, remember } from '../../host/install/known-hosts.ts';
import { knownHostName, parseSshTarget } from '../../host/install/ssh-target.ts';

const keyOf = (letter: string): Buffer =>
  Buffer.concat([Buffer.of(0, 0, 0, 11), Buffer.from('ssh-ed25519'), Buffer.from(letter.repeat(36))]);
const ours = keyOf('a');
const line = (hosts: string, key = ours): string =>
  `${hosts} ssh-ed25519 ${key.toString('base64')} a comment`;

function fileOf(...lines: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'vesper-test-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'known_hosts');
  writeFileSync(file, lines.join('\n'));
  return file;
}

const verdictOn = (host: string, ...lines: readonly string[]): string =>
  judge(knownKeys([fileOf(...lines)], host), ours).kind;

test.for([
  ['web1', 'web1', 'known'],
  ['Web1', 'web1', 'known'],
  ['web1', 'web2', 'unknown'],
  ['web1', 'db1,web1,192.0.2.7', 'known'],
  ['web1', 'web?', 'known'],
  ['web1.example', '*.example', 'known'],
  ['web1.example', '*.example,!web1.*', 'unknown'],
  ['web1xexample', 'web1.example', 'unknown'],
  ['[web1]:2222', '[web1]:2222', 'known'],
  ['[web1]:2222', 'web1', 'unknown'],
  ['web1', '#web1', 'unknown'],
  ['web1', '@revoked web1', 'revoked'],
  ['web1', '@cert-authority web1', 'unknown'],
] as const)('%s against "%s": %s', ([host, hosts, verdict]) => {
  expect(verdictOn(host, line(hosts))).toBe(verdict);
});

test('hashed names, several keys, broken lines', () => {
  const salt = Buffer.alloc(20, 7);
  const hashed = (name: string): string =>
    `|1|${salt.toString('base64')}|${createHmac('sha1', salt).update(name).digest('base64')}`;
  expect(verdictOn('web1', line(hashed('web1')))).toBe('known');
  expect(verdictOn('web1', line(hashed('web2')))).toBe('unknown');
  expect(verdictOn('web1', line('web1', keyOf('b')), line('web1'))).toBe('known');
  expect(verdictOn('web1', line('web1', keyOf('b')))).toBe('changed');
  expect(verdictOn('web1', line('web1'), line('@revoked *'))).toBe('revoked');
  expect(verdictOn('web1', 'web1', '|1|x', '@revoked', '\0\xff', '', line('web1'))).toBe('known');
});

test('a key that is remembered is known from then on, and nothing before it is lost', () => {
  const file = fileOf(line('other'));
  remember(file, '[web1]:2222', ours);
  expect(judge(knownKeys([file], '[web1]:2222'), ours).kind).toBe('known');
  expect(judge(knownKeys([file], 'other'), ours).kind).toBe('known');
  const fresh = join(file, '../.ssh/known_hosts');
  remember(fresh, 'web1', ours);
  expect(readFileSync(fresh, 'utf8')).toBe(`web1 ssh-ed25519 ${ours.toString('base64')}\n`);
  expect(statSync(fresh).mode & 0o777).toBe(0o600);
  expect(knownKeys([join(file, '../none')], 'web1')).toEqual([]);
});

test('names of keys, from bytes of a stranger', () => {
  expect(keyType(ours)).toBe('ssh-ed25519');
  expect(keyType(Buffer.alloc(0))).toBe('');
  expect(keyType(Buffer.alloc(9, 0xff))).toHaveLength(5);
  expect(fingerprint(ours)).toMatch(/^SHA256:[A-Za-z0-9+/]{43}$/);
});

test.for([
  ['root@web1', 'root', 'web1', 22, 'web1'],
  ['admin@web1.example:2222', 'admin', 'web1.example', 2222, '[web1.example]:2222'],
  ['root@192.0.2.7', 'root', '192.0.2.7', 22, '192.0.2.7'],
  ['root@[2001:db8::1]:2222', 'root', '2001:db8::1', 2222, '[2001:db8::1]:2222'],
  ['root@[fe80::1%eth0]', 'root', 'fe80::1%eth0', 22, 'fe80::1%eth0'],
  ['root@2001:db8::1', 'root', '2001:db8::1', 22, '2001:db8::1'],
  ['web1', userInfo().username, 'web1', 22, 'web1'],
] as const)('--ssh %s', ([text, user, host, port, known]) => {
  const target = parseSshTarget(text);
  expect(target).toEqual({ user, host, port });
  expect(knownHostName(target)).toBe(known);
});

test.for([
  '',
  '@web1',
  'root@',
  'root@web1:',
  'root@web1:0',
  'root@web1:65536',
  'root@web 1',
  'a@b@c',
  '-oProxyCommand=x',
  'root@-oX',
])('--ssh "%s" is refused', (text) => {
  expect(() => parseSshTarget(text)).toThrow(/write USER@HOST/);
});
