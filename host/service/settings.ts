// SPDX-License-Identifier: Apache-2.0

/** What a service runs with: flags and environment first, then the configuration file, then what is usual. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { VesperError } from '../error.ts';
import type { RelayBackend } from '../guest/relay-backend.ts';
import type { LogLevel } from '../log.ts';
import {
  defaultHeartbeatMs,
  defaultRunDirectory,
  defaultStateDirectory,
  type ServiceConfig,
} from './config.ts';
import { type ConfigFile, defaultConfigPath, parseConfig, readConfigFile } from './config-file.ts';

/** What was said on the command line or in the environment; undefined or empty: nothing. */
export interface Given {
  readonly config: string | undefined;
  readonly runDirectory: string | undefined;
  readonly stateDirectory: string | undefined;
  /** QMP sockets by the name of their guest. */
  readonly monitors: Readonly<Record<string, string>>;
  /** Sockets of vhost-user-vsock backends by the name of their guest. */
  readonly vsock: Readonly<Record<string, string>>;
  readonly folders: readonly string[];
  /** URI of a libvirtd. */
  readonly libvirt: string | undefined;
  readonly catalogue: readonly string[];
  /** Of a guest's region. */
  readonly regionBytes: number | undefined;
  readonly relayBackend: RelayBackend | undefined;
  /** Where the page for Prometheus is offered over TCP, `HOST:PORT`. */
  readonly metrics: string | undefined;
  readonly logLevel: string | undefined;
}

export interface QemuSettings {
  readonly monitors: readonly { readonly name: string; readonly path: string }[];
  readonly folders: readonly string[];
  readonly hybridVsockPaths: ReadonlyMap<string, string>;
  readonly runtimeDirectory: string;
  readonly regionDirectory: string;
  readonly blackBoxKeptMs: number;
}

export interface LibvirtSettings {
  readonly uri: string;
  /** Patterns of the domains that are looked after; undefined: all. */
  readonly guests: readonly string[] | undefined;
  readonly regionDirectory: string;
  readonly blackBoxKeptMs: number;
}

export interface Settings {
  /** The file that was read; undefined: there was none. */
  readonly file: string | undefined;
  readonly service: ServiceConfig;
  readonly qemu: QemuSettings | undefined;
  readonly libvirt: LibvirtSettings | undefined;
  /** `HOST:PORT`; undefined: not over TCP. */
  readonly metrics: string | undefined;
  readonly logLevel: string;
}

const defaultBlackBoxKeptMs = 24 * 3_600_000;
export const defaultLibvirtUri = 'qemu:///system';
const defaultLogLevel: LogLevel = 'info';

/** Reads the file that was named, else the usual one if it is there. Throws as readConfigFile. */
export function readSettings(given: Given, builtCatalogue: readonly string[]): Settings {
  const path = given.config ?? (existsSync(defaultConfigPath) ? defaultConfigPath : undefined);
  const file = path === undefined ? parseConfig('', '') : readConfigFile(path);
  return settingsOf(given, path, file, builtCatalogue);
}

function settingsOf(
  given: Given,
  path: string | undefined,
  file: ConfigFile,
  builtCatalogue: readonly string[],
): Settings {
  const {
    directories,
    api,
    region,
    relay,
    metrics,
    black_box: blackBox,
    log,
    probes,
    providers,
    pacemaker,
  } = file;
  const runDirectory = given.runDirectory ?? directories.run ?? defaultRunDirectory();
  const monitors = Object.entries(
    Object.keys(given.monitors).length > 0 ? given.monitors : (providers.qemu?.monitors ?? {}),
  ).map(([name, socket]) => ({ name, path: socket }));
  const folders = given.folders.length > 0 ? given.folders : (providers.qemu?.folders ?? []);
  const catalogue = given.catalogue.length > 0 ? given.catalogue : directories.catalogue;
  const libvirtUri = given.libvirt ?? (providers.libvirt && (providers.libvirt.uri ?? defaultLibvirtUri));
  const regionDirectory = directories.regions ?? '/dev/shm';
  const blackBoxKeptMs = blackBox.keep ?? defaultBlackBoxKeptMs;
  return {
    file: path,
    logLevel: given.logLevel ?? log.level ?? defaultLogLevel,
    metrics: given.metrics ?? metrics.listen,
    qemu:
      monitors.length + folders.length === 0
        ? undefined
        : {
            monitors,
            folders,
            hybridVsockPaths: new Map(
              Object.entries(
                Object.keys(given.vsock).length > 0 ? given.vsock : (providers.qemu?.vsock ?? {}),
              ),
            ),
            runtimeDirectory: join(runDirectory, 'qemu'),
            regionDirectory,
            blackBoxKeptMs,
          },
    libvirt:
      libvirtUri === undefined
        ? undefined
        : { uri: libvirtUri, guests: providers.libvirt?.guests, regionDirectory, blackBoxKeptMs },
    service: {
      runDirectory,
      stateDirectory: given.stateDirectory ?? directories.state ?? defaultStateDirectory(),
      catalogueRoots: catalogue ?? builtCatalogue,
      regionBytes: given.regionBytes ?? region.size,
      relayBackend: given.relayBackend ?? relay.backend,
      heartbeatMs: defaultHeartbeatMs,
      api,
      probes,
      pacemaker,
    },
  };
}

/** Throws USAGE where the service would have no guests to look after. */
export function requireProvider({ qemu, libvirt, file }: Settings): void {
  if (qemu !== undefined || libvirt !== undefined) return;
  const there = file ?? defaultConfigPath;
  throw new VesperError(
    'USAGE',
    `say where the guests are: --libvirt qemu:///system, or --qemu NAME=QMP-SOCKET or --qemu-dir DIRECTORY, or providers in ${there}`,
  );
}

/** Keys of the file that changed and that a running service does not take up. */
export function needRestart(before: Settings, after: Settings): readonly string[] {
  const parts = (settings: Settings): Readonly<Record<string, unknown>> => {
    const { runDirectory, stateDirectory, catalogueRoots, regionBytes, relayBackend, api } = settings.service;
    const { runtimeDirectory: _, regionDirectory, blackBoxKeptMs, ...qemu } = settings.qemu ?? {};
    const { uri, guests } = settings.libvirt ?? {};
    return {
      providers: { qemu, libvirt: { uri, guests } },
      directories: [
        runDirectory,
        stateDirectory,
        catalogueRoots,
        regionDirectory ?? settings.libvirt?.regionDirectory,
      ],
      api,
      region: regionBytes,
      relay: relayBackend,
      black_box: blackBoxKeptMs ?? settings.libvirt?.blackBoxKeptMs,
      metrics: settings.metrics,
      // What stands in it is taken up at once.
      pacemaker: settings.service.pacemaker !== undefined,
    };
  };
  const [old, fresh] = [parts(before), parts(after)];
  return Object.keys(old).filter((key) => !isDeepStrictEqual(old[key], fresh[key]));
}
