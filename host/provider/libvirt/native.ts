// SPDX-License-Identifier: Apache-2.0

/**
 * The native bindings of libvirt (`build/native/libvirt.node`, sources in `native/libvirt/`), typed.
 *
 *   const { Connection } = loadLibvirtAddon();
 *   const connection = await Connection.open('qemu:///system');
 *   await connection.subscribe('lifecycle', (event) => console.log(event));
 *   for (const domain of await connection.listDomains()) console.log(domain.name, await domain.state());
 *   console.log('the connection ended:', await connection.closed);
 *
 * Every method that returns a promise is a call that runs on one of the four threads of its connection; a daemon that
 * hangs holds up its own connection and nothing else. Promises reject with a `LibvirtError`; arguments of a wrong type
 * throw a TypeError or RangeError at once. A call under way keeps the event loop alive; an open connection, a
 * subscription and a stream do not.
 */

import type { DomainEvent, EventKind, LostEvents, Statistics, Unnamed } from './event.ts';

/** What the addon itself reports; everything else is libvirt's. */
export type OwnErrorCode =
  /** No answer within the time limit. The call may still take effect; its thread is occupied until libvirt returns. */
  | 'TIMEOUT'
  /** The connection or the stream is closed. */
  | 'CLOSED'
  /** The stream's reader did not keep up: more than `backlogBytes` waited for it. */
  | 'STREAM_OVERRUN'
  /** `write` was called before the one before had ended. */
  | 'STREAM_BUSY';

export interface LibvirtError extends Error {
  readonly name: 'LibvirtError';
  /** As libvirt spells it: `VIR_ERR_NO_DOMAIN`. */
  readonly code: OwnErrorCode | `VIR_${'ERR' | 'WAR'}_${string}` | Unnamed;
  /** libvirt's number of the error (`virErrorNumber`). This and what follows is there for its errors only. */
  readonly libvirtCode?: number;
  /** libvirt's number of the part that raised it (`virErrorDomain`), */
  readonly libvirtDomain?: number;
  /** and its name: `VIR_FROM_QEMU`. */
  readonly source?: `VIR_FROM_${string}` | Unnamed;
  /** The function of libvirt that failed: `virDomainLookupByName`. */
  readonly call?: string;
}

export function isLibvirtError(thrown: unknown): thrown is LibvirtError {
  return thrown instanceof Error && thrown.name === 'LibvirtError';
}

export interface CallOptions {
  /** 1 ms … 1 day. Unless given that of the connection; 10 minutes for saving, restoring and migrating. */
  readonly timeLimitMs?: number;
}

/** What libvirt may ask for, by the name of its credential type. */
export type CredentialName =
  | 'username'
  | 'authname'
  | 'language'
  | 'cnonce'
  | 'passphrase'
  | 'echoprompt'
  | 'noechoprompt'
  | 'realm'
  | 'external';

export interface OpenOptions {
  /** For opening and for each call that has no limit of its own. Default 10 s. */
  readonly timeLimitMs?: number;
  readonly readOnly?: boolean;
  /**
   * The daemon is asked for a sign of life after so many seconds of silence, and the connection is lost (`'keepalive'`)
   * when `count` of them stay unanswered. Default 5 s and 3. Drivers without a daemon do without.
   */
  readonly keepAlive?: { readonly intervalSeconds?: number; readonly count?: number } | false;
  /** Answers to what the daemon asks; where one is missing, opening fails with `VIR_ERR_AUTH_FAILED`. */
  readonly credentials?: Readonly<Partial<Record<CredentialName, string>>>;
}

/** Why a connection ended: `client` is `close()`. */
export type CloseReason = 'error' | 'eof' | 'keepalive' | 'client' | Unnamed;

export interface ConnectionDescription {
  readonly uri: string;
  /** Of the machine that the daemon runs on. */
  readonly hostname: string;
  /** `QEMU`. */
  readonly hypervisor: string;
  /** 1,000,000 × major + 1,000 × minor + release. */
  readonly libvirtVersion: number;
  readonly hypervisorVersion: number;
}

/** Both of a pair, or none: all. */
export interface ListOptions extends CallOptions {
  readonly active?: boolean;
  readonly inactive?: boolean;
  readonly persistent?: boolean;
  readonly transient?: boolean;
}

export interface CreateOptions extends CallOptions {
  readonly paused?: boolean;
  /** It is destroyed when this connection is closed. */
  readonly autoDestroy?: boolean;
  /** Check the XML against the schema. */
  readonly validate?: boolean;
}

export interface SaveOptions extends CallOptions {
  readonly bypassCache?: boolean;
  /** How it is when it is restored; as it was when saved unless one of the two is given. */
  readonly running?: boolean;
  readonly paused?: boolean;
}

export type StatisticsGroup =
  | 'state'
  | 'cpu'
  | 'balloon'
  | 'vcpu'
  | 'interface'
  | 'block'
  | 'perf'
  | 'iothread'
  | 'memory'
  | 'dirtyrate'
  | 'vm';

export interface StatisticsOptions extends CallOptions {
  /** All that the hypervisor has unless given. */
  readonly groups?: readonly StatisticsGroup[];
  /** Leave out what a domain that is busy with a job, or hangs, would have to be waited for. */
  readonly noWait?: boolean;
  /** Fail where a group is not supported, instead of leaving it out. */
  readonly enforce?: boolean;
  /** Block statistics of the whole backing chain. */
  readonly backing?: boolean;
}

export interface SubscribeOptions extends CallOptions {
  /** The UUID of the one domain to tell of; all unless given. */
  readonly domain?: string;
}

export interface NativeConnection {
  /** False from `close()` or the loss of the connection on; its domains, streams and subscriptions are of no use then. */
  readonly isOpen: boolean;
  /** Resolves when the connection ends, however that comes; never rejects. */
  readonly closed: Promise<CloseReason>;
  /** Calls whose time limit has passed and which libvirt has not returned from. Above 0: something hangs. */
  readonly abandonedCalls: number;
  /** Cancels what has not begun, waits for what has, and closes. TIMEOUT: it goes on without being waited for. */
  close(options?: CallOptions): Promise<void>;

  describe(options?: CallOptions): Promise<ConnectionDescription>;
  /** XML. */
  capabilities(options?: CallOptions): Promise<string>;
  listDomains(options?: ListOptions): Promise<readonly NativeDomain[]>;
  /** These three reject with VIR_ERR_NO_DOMAIN where there is none. */
  domainByName(name: string, options?: CallOptions): Promise<NativeDomain>;
  domainByUuid(uuid: string, options?: CallOptions): Promise<NativeDomain>;
  domainById(id: number, options?: CallOptions): Promise<NativeDomain>;
  /** Makes a persistent domain, or changes one. */
  defineDomain(xml: string, options?: CallOptions & { readonly validate?: boolean }): Promise<NativeDomain>;
  /** Starts a transient domain. */
  createDomain(xml: string, options?: CreateOptions): Promise<NativeDomain>;
  /** Starts what `domain.save` saved. `xml` replaces the parts of its XML that may change. */
  restore(file: string, options?: SaveOptions & { readonly xml?: string }): Promise<void>;
  statistics(
    options?: StatisticsOptions & { readonly active?: boolean; readonly inactive?: boolean },
  ): Promise<readonly { readonly domain: NativeDomain; readonly statistics: Statistics }[]>;
  /**
   * Calls `listener` for every event of a kind, in the order in which they came, until the subscription or the
   * connection is closed. After a reconnection subscribe again. What the listener throws is an uncaught exception.
   */
  subscribe<Kind extends EventKind>(
    kind: Kind,
    listener: (event: DomainEvent<Kind> | LostEvents) => void,
    options?: SubscribeOptions,
  ): Promise<NativeSubscription>;
}

export interface NativeSubscription {
  /** The listener is not called again from now on. Idempotent. */
  close(options?: CallOptions): Promise<void>;
}

export type DomainState =
  | 'no-state'
  | 'running'
  | 'blocked'
  | 'paused'
  | 'shutdown'
  | 'shutoff'
  | 'crashed'
  | 'pmsuspended'
  | Unnamed;

/** Not every reason goes with every state; see `virDomain…Reason` of libvirt. */
export type DomainStateReason =
  | 'unknown'
  | 'booted'
  | 'crashed'
  | 'daemon'
  | 'destroyed'
  | 'dump'
  | 'failed'
  | 'from-snapshot'
  | 'io-error'
  | 'migrated'
  | 'migration'
  | 'migration-canceled'
  | 'panicked'
  | 'postcopy'
  | 'postcopy-failed'
  | 'restored'
  | 'save'
  | 'save-canceled'
  | 'saved'
  | 'shutdown'
  | 'shutting-down'
  | 'snapshot'
  | 'starting-up'
  | 'unpaused'
  | 'user'
  | 'wakeup'
  | 'watchdog'
  | Unnamed;

/** What is changed or read; the running domain where it runs, else its configuration, unless given. */
export interface ImpactOptions extends CallOptions {
  readonly live?: boolean;
  readonly config?: boolean;
}

export type MetadataOptions = ImpactOptions &
  (
    | { readonly type: 'description' | 'title' }
    /** `uri` is the namespace of the element. */
    | { readonly type: 'element'; readonly uri: string }
  );

/** KiB except `swap-in` and `swap-out` (KiB since boot), faults (counts) and `last-update` (seconds since 1970). */
export type MemoryStatistic =
  | 'swap-in'
  | 'swap-out'
  | 'major-fault'
  | 'minor-fault'
  | 'unused'
  | 'available'
  | 'actual-balloon'
  | 'rss'
  | 'usable'
  | 'last-update'
  | 'disk-caches'
  | 'hugetlb-pgalloc'
  | 'hugetlb-pgfail';

export interface MigrateOptions extends CallOptions {
  readonly live?: boolean;
  /** The daemons talk to each other; without it the destination's URI is the hypervisor's. */
  readonly peerToPeer?: boolean;
  /** The data goes through the daemons' connection. */
  readonly tunnelled?: boolean;
  readonly persistDestination?: boolean;
  readonly undefineSource?: boolean;
  readonly paused?: boolean;
  /** Disks that are not shared: all of them, or only what is above a shared backing file. */
  readonly copyDisks?: boolean;
  readonly copyDiskChanges?: boolean;
  readonly changeProtection?: boolean;
  /** Although caching of the disks might harm them. */
  readonly unsafe?: boolean;
  readonly offline?: boolean;
  readonly compressed?: boolean;
  readonly abortOnError?: boolean;
  readonly autoConverge?: boolean;
  readonly postcopy?: boolean;
  readonly tls?: boolean;
  readonly parallel?: boolean;
  /** Where the data goes: `tcp://host:port`, `unix:/path`. The hypervisor's choice unless given. */
  readonly uri?: string;
  readonly destinationName?: string;
  readonly destinationXml?: string;
  readonly persistentXml?: string;
  readonly graphicsUri?: string;
  readonly listenAddress?: string;
  readonly disksUri?: string;
  /** 0: as fast as it can. */
  readonly bandwidthMibPerSecond?: number;
  readonly parallelConnections?: number;
}

export type JobType = 'none' | 'bounded' | 'unbounded' | 'completed' | 'failed' | 'cancelled' | Unnamed;

export interface Job {
  readonly type: JobType;
  /** The fields of virDomainGetJobStats: `time_elapsed` (ms), `data_remaining` (bytes), … */
  readonly statistics: Statistics;
}

/** How a guest is asked to shut down or reboot: the hypervisor's choice unless given. */
export interface PowerOptions extends CallOptions {
  readonly by?: 'acpi' | 'agent';
}

export interface StreamOptions extends CallOptions {
  /** Take it from whoever has it. */
  readonly force?: boolean;
  /**
   * How much may wait for the reader before the stream ends with STREAM_OVERRUN: libvirt's protocol cannot hold back
   * one stream. 64 KiB … 1 GiB; default 16 MiB.
   */
  readonly backlogBytes?: number;
}

export interface NativeDomain {
  readonly name: string;
  /** Canonical lower-case UUID. */
  readonly uuid: string;

  /** Of the running domain; `null` when it does not run. */
  id(options?: CallOptions): Promise<number | null>;
  state(options?: CallOptions): Promise<{ readonly state: DomainState; readonly reason: DomainStateReason }>;
  /** The running domain's unless `inactive`. `secure`: with passwords. */
  xml(
    options?: CallOptions & {
      readonly inactive?: boolean;
      readonly secure?: boolean;
      readonly migratable?: boolean;
    },
  ): Promise<string>;
  isPersistent(options?: CallOptions): Promise<boolean>;
  memoryStatistics(
    options?: CallOptions,
  ): Promise<Readonly<Partial<Record<MemoryStatistic | Unnamed, number>>>>;
  /** How often the guest's balloon driver reports; 0: never. Without it `memoryStatistics` knows little. */
  setMemoryStatisticsPeriod(seconds: number, options?: CallOptions): Promise<void>;
  statistics(options?: StatisticsOptions): Promise<Statistics>;
  /** Rejects with VIR_ERR_NO_DOMAIN_METADATA where there is none. */
  metadata(options: MetadataOptions): Promise<string>;
  /** `null` removes it. `key` is the element's namespace prefix, needed for an element that is set. */
  setMetadata(text: string | null, options: MetadataOptions & { readonly key?: string }): Promise<void>;

  start(options?: CreateOptions & { readonly forceBoot?: boolean }): Promise<void>;
  /** Asks the guest; it decides. */
  shutdown(options?: PowerOptions): Promise<void>;
  reboot(options?: PowerOptions): Promise<void>;
  /** Pulls the reset line. */
  reset(options?: CallOptions): Promise<void>;
  /**
   * Ends QEMU: SIGTERM, then SIGKILL unless `graceful`. Of a transient domain that it did end it may say
   * VIR_ERR_NO_DOMAIN: libvirt forgot the domain before the call was done.
   */
  destroy(options?: CallOptions & { readonly graceful?: boolean }): Promise<void>;
  suspend(options?: CallOptions): Promise<void>;
  resume(options?: CallOptions): Promise<void>;
  /** Rejects where something of it is left that is not named here. */
  undefine(
    options?: CallOptions & {
      readonly managedSave?: boolean;
      readonly snapshotsMetadata?: boolean;
      readonly checkpointsMetadata?: boolean;
      readonly nvram?: boolean;
      readonly keepNvram?: boolean;
      readonly tpm?: boolean;
      readonly keepTpm?: boolean;
    },
  ): Promise<void>;
  injectNmi(options?: CallOptions): Promise<void>;

  attachDevice(xml: string, options?: ImpactOptions): Promise<void>;
  /**
   * These two ask the guest to let go of a device and return; `device-removed` or `device-removal-failed` tells the end.
   * A device without a driver in the guest may never be let go of.
   */
  detachDevice(xml: string, options?: ImpactOptions): Promise<void>;
  detachAlias(alias: string, options?: ImpactOptions): Promise<void>;
  updateDevice(xml: string, options?: ImpactOptions & { readonly force?: boolean }): Promise<void>;

  /** Saves it to a file of the daemon's machine and ends it. */
  save(file: string, options?: SaveOptions & { readonly xml?: string }): Promise<void>;
  /** The same to a file of libvirt's, which the next `start` restores. */
  managedSave(options?: SaveOptions): Promise<void>;
  removeManagedSave(options?: CallOptions): Promise<void>;
  /** With `peerToPeer` to another daemon. On TIMEOUT it goes on: `abortJob` ends it. */
  migrate(destinationUri: string, options?: MigrateOptions): Promise<void>;
  /** What the domain is busy with; with `completed` what it was last. */
  job(options?: CallOptions & { readonly completed?: boolean }): Promise<Job>;
  abortJob(options?: CallOptions): Promise<void>;

  /** A command of QEMU's monitor as JSON, or as a line with `hmp`; returns QEMU's answer. It taints the domain. */
  monitorCommand(command: string, options?: CallOptions & { readonly hmp?: boolean }): Promise<string>;
  /** A command of the QEMU guest agent as JSON, with the seconds it may take; returns its answer. */
  agentCommand(command: string, options: CallOptions & { readonly seconds: number }): Promise<string>;
  /**
   * Connects to a virtio-serial channel by its name (empty: the first), through the daemon: for those whose socket is on
   * another machine. `onEnd` is called once, unless `close()` came first.
   */
  openChannel(
    name: string,
    onData: (bytes: Uint8Array) => void,
    onEnd: (why: LibvirtError | undefined) => void,
    options?: StreamOptions,
  ): Promise<NativeStream>;
  /** The same with a serial line or console by its alias (empty: the first). */
  openConsole(
    alias: string,
    onData: (bytes: Uint8Array) => void,
    onEnd: (why: LibvirtError | undefined) => void,
    options?: StreamOptions & { readonly safe?: boolean },
  ): Promise<NativeStream>;
}

export interface NativeStream {
  /** It was closed, or is at its end. */
  readonly closed: boolean;
  /**
   * Resolves when all is handed to the daemon. One at a time. After any error nobody knows how much of it arrived: close
   * the stream.
   */
  write(bytes: Uint8Array, options?: CallOptions): Promise<void>;
  /** Neither function is called again from now on. Idempotent. */
  close(options?: CallOptions): Promise<void>;
}

export interface LibvirtAddon {
  readonly Connection: {
    /** `qemu:///system`, `qemu+tls://host/system`, … */
    open(uri: string, options?: OpenOptions): Promise<NativeConnection>;
  };
}
