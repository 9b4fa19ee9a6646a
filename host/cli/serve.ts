// SPDX-License-Identifier: Apache-2.0

import { Command, InvalidArgumentError, Option } from 'commander';
import { defaultMetricsAddress, metricsAddress } from '../api/metrics-server.ts';
import { ApiServer } from '../api/server.ts';
import { VesperError } from '../error.ts';
import { type RelayBackend, relayBackends } from '../guest/relay-backend.ts';
import { createLog, type Logger } from '../log.ts';
import { LibvirtProvider } from '../provider/libvirt/provider.ts';
import { checkUri } from '../provider/libvirt/uri.ts';
import type { Provider } from '../provider/provider.ts';
import { QemuProvider } from '../provider/qemu/provider.ts';
import { RelayHub } from '../relay/hub.ts';
import { adviceOn } from '../service/config-advice.ts';
import { defaultConfigPath } from '../service/config-file.ts';
import { matchesGuest } from '../service/guest-pattern.ts';
import { ServiceManager } from '../service/notify.ts';
import { Reload } from '../service/reload.ts';
import { Service } from '../service/service.ts';
import {
  defaultLibvirtUri,
  type Given,
  readSettings,
  requireProvider,
  type Settings,
} from '../service/settings.ts';
import { builtCatalogueRoots } from './catalogue-roots.ts';
import { collect, example } from './context.ts';
import { printable } from './terminal.ts';

interface Options {
  readonly config?: string;
  readonly check?: boolean;
  readonly stateDir: string;
  readonly runDir: string;
  readonly qemu: readonly string[];
  readonly qemuDir: readonly string[];
  readonly libvirt?: string | true;
  readonly vsock: readonly string[];
  readonly catalogue: readonly string[];
  readonly regionMib?: number;
  readonly relay?: RelayBackend;
  readonly metrics?: string | true;
}

const MiB = 1 << 20;
const largestRegionMib = 1024;

function parseRegionMib(text: string): number {
  const mib = Number(text);
  if (!Number.isInteger(Math.log2(mib)) || mib < 1 || mib > largestRegionMib)
    throw new InvalidArgumentError(`a power of two from 1 to ${largestRegionMib} is needed.`);
  return mib;
}

export function serveCommand(): Command {
  return new Command('serve')
    .description('The service: keeps sessions with the guests and their wanted probes in place.')
    .addOption(
      new Option(
        '--config <file>',
        `configuration, else ${defaultConfigPath} if it is there; flags win over it`,
      ).env('VESPER_CONFIG'),
    )
    .option('--check', 'say whether the configuration is right, and do nothing else')
    .addOption(
      new Option('--state-dir <dir>', 'wanted state, images, audit log')
        .env('VESPER_STATE_DIR')
        .default('/var/lib/vesper'),
    )
    .option(
      '--libvirt [uri]',
      `every domain of this host's libvirtd: ${defaultLibvirtUri} unless said otherwise, or qemu:///session`,
    )
    .option('--qemu <name=socket>', 'a QEMU by its QMP socket (may be repeated)', collect, [])
    .option(
      '--qemu-dir <dir>',
      'a directory with QMP sockets named <guest>.qmp (may be repeated)',
      collect,
      [],
    )
    .option(
      '--vsock <name=socket>',
      "the unix socket of a guest's vhost-user-vsock backend (may be repeated)",
      collect,
      [],
    )
    .addOption(
      new Option('--relay <backend>', 'how records reach the host; otherwise the best that a guest can do')
        .choices(relayBackends)
        .env('VESPER_RELAY'),
    )
    .option(
      '--metrics [host:port]',
      `offer the page for Prometheus over TCP, too; on ${defaultMetricsAddress} unless said otherwise`,
    )
    .option('--catalogue <dir>', 'a directory with probe images (may be repeated)', collect, [])
    .option(
      '--region-mib <n>',
      'size of a region that is plugged into a guest, in MiB: a power of two (2 for each of its CPUs, 16 at most)',
      parseRegionMib,
    )
    .addHelpText(
      'after',
      example(
        'vesper serve --libvirt\nvesper serve --qemu web1=/run/web1.qmp\nvesper serve --config /etc/vesper/vesper.yaml --check',
      ),
    )
    .action(async (_options: Options, command: Command) => {
      const read = (): Settings => readSettings(givenBy(command), builtCatalogueRoots());
      if (command.opts<Options>().check === true) await check(read());
      else await serve(read);
    });
}

async function serve(read: () => Settings): Promise<void> {
  const settings = read();
  requireProvider(settings);
  const metrics = settings.metrics === undefined ? undefined : metricsAddress(settings.metrics);
  const log = createLog(settings.logLevel);
  const manager = new ServiceManager(log);
  const hub = new RelayHub();
  const service = new Service({
    log,
    relays: hub,
    providers: providersOf(settings, log),
    config: settings.service,
  });
  const api = new ApiServer(service, metrics);
  const ended = new Promise<NodeJS.Signals>((resolve) => {
    // Without a file there is nothing to read anew: a terminal that is closed ends the service, as it ends others.
    const ends = [
      'SIGINT',
      'SIGTERM',
      ...(settings.file === undefined ? (['SIGHUP'] as const) : []),
    ] as const;
    for (const signal of ends) process.once(signal, resolve);
  });
  const reload = new Reload(service, manager, read, settings);
  try {
    await api.start();
    await service.start();
    if (settings.file !== undefined) process.on('SIGHUP', () => reload.now());
    log.info(`listening on ${api.path}`);
    manager.ready(reload.status);
    await ended;
    log.info('stopping; guests keep their probes');
  } finally {
    process.removeAllListeners('SIGHUP');
    manager.stopping();
    await api.stop();
    const stuck = await service.stop();
    if (stuck.length > 0) log.warn(`left as they are, since they do not answer: ${stuck.join(', ')}`);
    hub.close();
  }
  // What is stuck may hold the event loop; all that has to outlive the service is on disk.
  setTimeout(() => process.exit(), exitLimitMs).unref();
}

const exitLimitMs = 500;

function providersOf({ qemu, libvirt }: Settings, log: Logger): readonly Provider[] {
  const includes = (guest: { readonly name: string; readonly uuid: string }): boolean =>
    libvirt?.guests?.some((pattern) => matchesGuest(pattern, guest)) ?? true;
  return [
    ...(qemu === undefined ? [] : [new QemuProvider({ ...qemu, log })]),
    ...(libvirt === undefined ? [] : [new LibvirtProvider({ ...libvirt, includes, log })]),
  ];
}

async function check(settings: Settings): Promise<void> {
  if (settings.file === undefined) {
    throw new VesperError('NOT_FOUND', `there is no ${defaultConfigPath}: name a file with --config`);
  }
  requireProvider(settings);
  if (settings.libvirt !== undefined) checkUri(settings.libvirt.uri);
  if (settings.metrics !== undefined) metricsAddress(settings.metrics);
  const { probes = [], catalogueRoots } = settings.service;
  for (const sentence of await adviceOn(probes, catalogueRoots))
    process.stderr.write(`vesper: ${printable(sentence)}\n`);
  process.stdout.write(
    `${settings.file} is right: it asks for probes in ${probes.length} ${probes.length === 1 ? 'entry' : 'entries'}\n`,
  );
}

/** What was said on the command line or in the environment, not what is usual. */
function givenBy(command: Command): Given {
  const options = command.optsWithGlobals<Options>();
  const said = (name: keyof Options): boolean => {
    const source = command.getOptionValueSourceWithGlobals(name);
    return source === 'cli' || source === 'env';
  };
  return {
    config: options.config,
    runDirectory: said('runDir') ? options.runDir : undefined,
    stateDirectory: said('stateDir') ? options.stateDir : undefined,
    monitors: Object.fromEntries(options.qemu.map((text) => parseSocket('--qemu', text))),
    vsock: Object.fromEntries(options.vsock.map((text) => parseSocket('--vsock', text))),
    folders: options.qemuDir,
    libvirt: options.libvirt === true ? defaultLibvirtUri : options.libvirt,
    catalogue: options.catalogue,
    regionBytes: options.regionMib === undefined ? undefined : options.regionMib * MiB,
    relayBackend: options.relay,
    metrics: options.metrics === true ? defaultMetricsAddress : options.metrics,
    logLevel: process.env['VESPER_LOG'],
  };
}

function parseSocket(option: string, text: string): readonly [name: string, path: string] {
  const at = text.indexOf('=');
  if (at < 1 || at === text.length - 1)
    throw new VesperError('USAGE', `${option} ${text}: write NAME=SOCKET`);
  return [text.slice(0, at), text.slice(at + 1)];
}
