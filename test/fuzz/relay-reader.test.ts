// SPDX-License-Identifier: Apache-2.0

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { corruptionRounds } from '../harness/corruption-rounds.ts';
import { RelayFixture } from '../harness/relay-fixture.ts';

const root = resolve(import.meta.dirname, '../..');
const build = join(root, 'build/fuzz');
const sources = ['test/fuzz/relay-reader.cc', 'native/relay/ring.cc', 'native/relay/region_reader.cc'];
const sanitized = ['-std=c++20', '-g', '-O1', '-fno-sanitize-recover=undefined', '-o'];
const seconds = Number(process.env['FUZZ_SECONDS'] ?? 120);

const clang = ['clang++', 'clang++-19', 'clang++-16', 'clang++-14'].find(
  (name) => spawnSync(name, ['--version']).status === 0,
);

test.skipIf(clang === undefined)('the reader core under libFuzzer (clang)', () => {
  const program = join(build, 'relay-reader');
  run(clang ?? '', ['-fsanitize=fuzzer,address,undefined', ...sanitized, program, ...sources]);
  const corpus = join(build, 'relay-reader.corpus');
  mkdirSync(corpus, { recursive: true });
  run(program, [
    `-max_total_time=${seconds}`,
    '-max_len=2000',
    `-artifact_prefix=${build}/`,
    '-verbosity=0',
    corpus,
  ]);
});

test('the reader core under sanitizers with random inputs', () => {
  const program = join(build, 'relay-reader-random');
  run('g++', ['-DSTANDALONE', '-fsanitize=address,undefined', ...sanitized, program, ...sources]);
  run(program, [String(Date.now()), '1000000']);
});

test('a region corrupted in 100,000 rounds, other ones each time', () => {
  const seed = Date.now() & 0x7fff_ffff;
  expect(corruptionRounds(new RelayFixture(), 100_000, seed).longestMs).toBeLessThan(1_000);
});

function run(program: string, args: readonly string[]): void {
  mkdirSync(build, { recursive: true });
  const { status, signal } = spawnSync(program, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  expect({ program, status, signal }).toEqual({ program, status: 0, signal: null });
}
