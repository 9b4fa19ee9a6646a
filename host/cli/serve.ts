// SPDX-License-Identifier: Apache-2.0

import { join } from 'node:path';
import { Command, Option } from 'commander';
import { ApiServer } from '../api/server.ts';
import { VesperError } from '../error.ts';
import { type RelayBackend, relayBackends } from '../guest/relay-backend.ts';
import { createLog } from '../log.ts';
import { QemuProvider } from '../provider/qemu/provider.ts';
import { RelayHub } from '../relay/hub.ts';
import { defaultHeartbeatMs, defaultRegionBytes, defaultRunDirectory } from '../service/config.ts';
import { Service } from '../service/service.ts';
import { builtCatalogueRoots } from './catalogue-roots.ts';
import { collect, example } from './context.ts';

interface Options {
  readonly stateDir: string;
  readonly qemu: readonly string[];
  readonly qemuDir: readonly string[];
  readonly catalogue: readonly string[];
  readonly runDir?: string;
  readonly relay?: RelayBackend;
}

export function serveCommand(): Command {
  return new Command('serve')
    .description('The service: keeps sessions with the guests and their wanted probes in place.')
    .addOption(
      new Option('--state-dir <dir>', 'wanted state, images, audit log')
        .env('VESPER_STATE_DIR')
        .default('/var/lib/vesper'),
    )
    .option('--qemu <name=socket>', 'a QEMU by its QMP socket (may be repeated)', collect, [])
    .option(
      '--qemu-dir <dir>',
      'a directory with QMP sockets named <guest>.qmp (may be repeated)',
      collect,
      [],
    )
    .addOption(
      new Option('--relay <backend>', 'how records reach the host; otherwise the best that a guest can do')
        .choices(relayBackends)
        .env('VESPER_RELAY'),
    )
    .option('--catalogue <dir>', 'a directory with probe images (may be repeated)', collect, [])
    .addHelpText('after', example('vesper serve --qemu web1=/run/web1.qmp'))
    .action(async (_options: Options, command: Command) => {
      const options = command.optsWithGlobals<Options>();
      if (options.qemu.length === 0 && options.qemuDir.length === 0) {
        throw new VesperError(
          'USAGE',
          'name at least one QEMU: --qemu NAME=QMP-SOCKET or --qemu-dir DIRECTORY',
        );
      }
      const log = createLog();
      const hub = new RelayHub();
      const runDirectory = options.runDir ?? defaultRunDirectory();
      const service = new Service({
        log,
        relays: hub,
        providers: [
          new QemuProvider({
            monitors: options.qemu.map(parseMonitor),
            folders: options.qemuDir,
            runtimeDirectory: join(runDirectory, 'qemu'),
            log,
          }),
        ],
        config: {
          runDirectory,
          stateDirectory: options.stateDir,
          catalogueRoots: options.catalogue.length > 0 ? options.catalogue : builtCatalogueRoots(),
          regionBytes: defaultRegionBytes,
          relayBackend: options.relay,
          heartbeatMs: defaultHeartbeatMs,
        },
      });
      const api = new ApiServer(service);
      const stop = async (): Promise<void> => {
        await api.stop();
        await service.stop();
        hub.close();
      };
      const signalled = new Promise<void>((resolve) => {
        for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
      });
      try {
        await api.start();
        await service.start();
        log.info(`listening on ${api.path}`);
        await signalled;
        log.info('stopping; guests keep their probes');
      } finally {
        await stop();
      }
    });
}

function parseMonitor(text: string): { readonly name: string; readonly path: string } {
  const at = text.indexOf('=');
  if (at < 1 || at === text.length - 1)
    throw new VesperError('USAGE', `--qemu ${text}: write NAME=QMP-SOCKET`);
  return { name: text.slice(0, at), path: text.slice(at + 1) };
}
