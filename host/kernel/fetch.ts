// SPDX-License-Identifier: Apache-2.0

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VesperError } from '../error.ts';
import { PrivateApt } from './apt.ts';
import { cacheDirectory, publishDirectory, scratchDirectory } from './cache.ts';
import { runCommand } from './command.ts';
import { type KernelKey, type KernelSeries, kernelKeys, kernelSeries } from './release.ts';
import { hostToolchainFits, wrapPrograms } from './toolchain.ts';

/** A Debian kernel with its modules and headers, unpacked in the cache; all paths are absolute. */
export interface Kernel {
  readonly key: KernelKey;
  /** What `uname -r` says in a guest that runs it. */
  readonly release: string;
  /** Debian's package version. */
  readonly packageVersion: string;
  readonly directory: string;
  /** The bzImage. */
  readonly image: string;
  /** `lib/modules/<release>` with a `modules.dep`. */
  readonly modules: string;
  /** What goes into `make -C`. */
  readonly headers: string;
  /** The compiler that fits the headers: a name in PATH or a path. */
  readonly compiler: string;
}

/** What a kernel's modules are built against. */
export type KernelHeaders = Pick<Kernel, 'release' | 'headers' | 'compiler'>;

export interface FetchOptions {
  /** Called with a line for a person each time something longer begins. */
  readonly progress?: (line: string) => void;
  /** Fetch again even when there is one, to get the newest version. */
  readonly refresh?: boolean;
}

/** Raised when what is unpacked changes, so that older caches are fetched again. */
const layout = 1;

/**
 * The newest Debian cloud kernel of a series; downloaded once, then taken from the cache. May run several times in
 * parallel. Throws `HOST` when the archive or a tool is missing.
 */
export async function fetchKernel(key: KernelKey, options: FetchOptions = {}): Promise<Kernel> {
  const parent = join(cacheDirectory(), 'kernels');
  const target = join(parent, key);
  const cached = options.refresh ? undefined : readCached(target);
  if (cached) return cached;

  const series = kernelSeries[key];
  const scratch = scratchDirectory(parent, '.fetch-');
  try {
    const unpacked = join(scratch, 'kernel');
    const kernel = await unpackKernel(series, scratch, unpacked, target, options.progress ?? (() => {}));
    writeFileSync(join(unpacked, 'kernel.json'), `${JSON.stringify({ layout, ...kernel }, null, 2)}\n`);
    if (existsSync(target) && (options.refresh || !readCached(target)))
      publishDirectory(target, join(scratch, 'old'));
    publishDirectory(unpacked, target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const kernel = readCached(target);
  if (!kernel)
    throw new VesperError('HOST', `The kernel in ${target} is incomplete; remove that folder and try again.`);
  return kernel;
}

function readCached(target: string): Kernel | undefined {
  const file = join(target, 'kernel.json');
  if (!existsSync(file)) return undefined;
  const kernel = JSON.parse(readFileSync(file, 'utf8')) as Kernel & { readonly layout: number };
  return kernel.layout === layout && kernel.directory === target ? kernel : undefined;
}

async function unpackKernel(
  series: KernelSeries,
  scratch: string,
  unpacked: string,
  target: string,
  progress: (line: string) => void,
): Promise<Kernel> {
  const apt = new PrivateApt(join(scratch, 'apt'), series.suite);
  progress(`kernel ${series.key}: reading Debian ${series.suite}'s package lists`);
  await apt.update();

  const image = await onlyMatch(apt, 'linux-image-cloud-amd64', /^linux-image-.*-cloud-amd64$/);
  const headers = await onlyMatch(apt, 'linux-headers-cloud-amd64', /^linux-headers-.*-cloud-amd64$/);
  const common = await onlyMatch(apt, headers, /^linux-headers-.*-common$/);
  const kbuild = await onlyMatch(apt, headers, /^linux-kbuild-/);
  const packageVersion = await apt.version(image);
  progress(`kernel ${series.key}: downloading and unpacking ${image} ${packageVersion}`);
  await apt.unpack([image, headers, common, kbuild], unpacked);

  // bookworm installs into /lib, trixie into /usr/lib; kbuild finds its tools relative to the headers.
  const release = image.slice('linux-image-'.length);
  const base = ['usr', ''].find((prefix) => existsSync(join(unpacked, prefix, 'lib/modules', release)));
  const tools = `usr/lib/${kbuild}`;
  if (base === undefined || !existsSync(join(unpacked, tools))) {
    throw new VesperError('HOST', `${image} ${packageVersion} is laid out in a way VESPER does not know.`);
  }
  relocateHeaders(join(unpacked, 'usr/src', headers));
  await runCommand('depmod', ['-b', join(unpacked, base), release], { package: 'kmod' });

  const compiler = await provideCompiler(series, apt, unpacked, target, tools, progress);
  return {
    key: series.key,
    release,
    packageVersion,
    directory: target,
    image: join(target, 'boot', `vmlinuz-${release}`),
    modules: join(target, base, 'lib/modules', release),
    headers: join(target, 'usr/src', headers),
    compiler,
  };
}

/** The compiler for headers that are unpacked: the host's where it fits, else that of the suite, unpacked beside them. */
async function provideCompiler(
  { key, suite, compiler, toolchain }: KernelSeries,
  apt: PrivateApt,
  unpacked: string,
  target: string,
  tools: string,
  progress: (line: string) => void,
): Promise<string> {
  if (await hostToolchainFits(join(unpacked, tools), compiler)) return compiler;
  progress(`kernel ${key}: unpacking ${compiler} of ${suite}, which its modules are built with`);
  await apt.unpack(toolchain, unpacked);
  wrapPrograms(
    unpacked,
    target,
    ['usr/bin', 'usr/libexec/gcc', 'usr/lib/gcc', tools].filter((path) => existsSync(join(unpacked, path))),
  );
  const names = readdirSync(join(unpacked, 'usr/bin'));
  const name = [`x86_64-linux-gnu-${compiler}`, compiler].find((candidate) => names.includes(candidate));
  if (!name) throw new VesperError('HOST', `No ${compiler} in the packages of ${suite}.`);
  return join(target, 'usr/bin', name);
}

/**
 * The headers of one release of a Debian kernel, cloud or not, and what it takes to build a module with them; downloaded once. Undefined
 * where the archive has none: it keeps those of a point release and of the newest security update. Throws `HOST` as `fetchKernel`.
 */
export async function fetchHeaders(
  release: string,
  { progress = () => {} }: FetchOptions = {},
): Promise<KernelHeaders | undefined> {
  const series = kernelKeys.map((key) => kernelSeries[key]).find(({ key }) => release.startsWith(`${key}.`));
  if (series === undefined || !/^[\w.+~-]+$/.test(release)) return undefined;
  const parent = join(cacheDirectory(), 'kernels');
  const whole = readCached(join(parent, series.key));
  if (whole?.release === release) return whole;
  const target = join(parent, `headers-${release}`);
  const file = join(target, 'headers.json');
  const read = () => JSON.parse(readFileSync(file, 'utf8')) as KernelHeaders;
  if (existsSync(file)) return read();
  const scratch = scratchDirectory(parent, '.fetch-');
  try {
    const apt = new PrivateApt(join(scratch, 'apt'), series.suite);
    progress(`kernel ${release}: reading Debian ${series.suite}'s package lists`);
    await apt.update();
    const headers = `linux-headers-${release}`;
    if (!(await apt.has(headers))) return undefined;
    const common = await onlyMatch(apt, headers, /^linux-headers-.*-common$/);
    const kbuild = await onlyMatch(apt, headers, /^linux-kbuild-/);
    const unpacked = join(scratch, 'headers');
    progress(`kernel ${release}: downloading and unpacking its headers`);
    await apt.unpack([headers, common, kbuild], unpacked);
    relocateHeaders(join(unpacked, 'usr/src', headers));
    const tools = `usr/lib/${kbuild}`;
    const compiler = await provideCompiler(series, apt, unpacked, target, tools, progress);
    const found: KernelHeaders = { release, headers: join(target, 'usr/src', headers), compiler };
    writeFileSync(join(unpacked, 'headers.json'), `${JSON.stringify(found, null, 2)}\n`);
    publishDirectory(unpacked, target);
    return read();
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function onlyMatch(apt: PrivateApt, name: string, pattern: RegExp): Promise<string> {
  const match = (await apt.dependencies(name)).find((dependency) => pattern.test(dependency));
  if (!match)
    throw new VesperError(
      'HOST',
      `Debian's package ${name} does not depend on what was expected (${pattern}).`,
    );
  return match;
}

/** Debian's headers include their common half by its absolute path after installation; name it relatively instead. */
function relocateHeaders(headers: string): void {
  const file = join(headers, 'Makefile');
  const text = readFileSync(file, 'utf8');
  const common = /^include (\/usr\/src\/\S+)\/Makefile$/m.exec(text)?.[1];
  if (!common)
    throw new VesperError('HOST', `${basename(headers)}: its Makefile is not the one Debian used to ship.`);
  writeFileSync(file, text.replace(`include ${common}/`, `include ../${basename(common)}/`));
}
