// SPDX-License-Identifier: Apache-2.0

/** What `connection.subscribe` tells of; kinds and words follow libvirt's `virDomainEventID` and its enumerations. */

/** A number for which libvirt had no name yet when the addon was built. */
export type Unnamed = `unknown-${number}`;

/** The domain that an event is about. */
export interface EventDomain {
  readonly name: string;
  /** Canonical lower-case UUID. */
  readonly uuid: string;
  /** `null` when it does not run. */
  readonly id: number | null;
}

interface LifecycleDetails {
  readonly defined: 'added' | 'updated' | 'renamed' | 'from-snapshot';
  readonly undefined: 'removed' | 'renamed';
  readonly started: 'booted' | 'migrated' | 'restored' | 'from-snapshot' | 'wakeup';
  readonly suspended:
    | 'paused'
    | 'migrated'
    | 'io-error'
    | 'watchdog'
    | 'restored'
    | 'from-snapshot'
    | 'api-error'
    | 'postcopy'
    | 'postcopy-failed';
  readonly resumed: 'unpaused' | 'migrated' | 'from-snapshot' | 'postcopy' | 'postcopy-failed';
  /** `failed`: QEMU was killed or crashed. */
  readonly stopped: 'shutdown' | 'destroyed' | 'crashed' | 'migrated' | 'saved' | 'failed' | 'from-snapshot';
  readonly shutdown: 'finished' | 'guest' | 'host';
  readonly pmsuspended: 'memory' | 'disk';
  /** `panicked` needs a panic device and its driver in the guest. */
  readonly crashed: 'panicked' | 'crashloaded';
}

/** Event and detail belong together: `{ event: 'stopped', detail: 'failed' }`. */
type Lifecycle = {
  readonly [Event in keyof LifecycleDetails]: {
    readonly event: Event;
    readonly detail: LifecycleDetails[Event] | Unnamed;
  };
}[keyof LifecycleDetails];

/** What each kind of event carries besides `kind` and `domain`. */
interface EventDetails {
  readonly lifecycle: Lifecycle | { readonly event: Unnamed; readonly detail: Unnamed };
  /** The guest was reset; one reboot may tell it several times. */
  readonly reboot: unknown;
  readonly 'rtc-change': { readonly utcOffsetSeconds: number };
  readonly watchdog: {
    readonly action: 'none' | 'pause' | 'reset' | 'poweroff' | 'shutdown' | 'debug' | 'inject-nmi' | Unnamed;
  };
  readonly 'io-error': {
    readonly path: string;
    /** Of the disk. */
    readonly alias: string;
    readonly action: 'none' | 'pause' | 'report' | Unnamed;
    /** `'enospc'`, or empty. */
    readonly reason: string;
  };
  /** libvirt lost its monitor of the domain's QEMU: it can no longer be controlled. */
  readonly 'control-error': unknown;
  readonly 'block-job': {
    /** The target: `vda`. */
    readonly disk: string;
    readonly type: 'unknown' | 'pull' | 'copy' | 'commit' | 'active-commit' | 'backup' | Unnamed;
    readonly state: 'completed' | 'failed' | 'canceled' | 'ready' | Unnamed;
  };
  readonly 'balloon-change': { readonly actualKib: number };
  readonly 'device-added': { readonly alias: string };
  /** The guest has let go of it, and it is gone from the XML. */
  readonly 'device-removed': { readonly alias: string };
  readonly 'device-removal-failed': { readonly alias: string };
  readonly 'agent-lifecycle': {
    readonly state: 'connected' | 'disconnected' | Unnamed;
    readonly reason: 'unknown' | 'domain-started' | 'channel' | Unnamed;
  };
  /** Needs QEMU's migration events, which libvirt switches on by itself. */
  readonly 'migration-iteration': { readonly iteration: number };
  /** Of the job that ended: the fields of virDomainGetJobStats. */
  readonly 'job-completed': { readonly statistics: Statistics };
  readonly 'metadata-change': {
    readonly type: 'description' | 'title' | 'element' | Unnamed;
    /** Of the element; `null` for the others. */
    readonly uri: string | null;
  };
  /** A machine check hit memory of the host or the guest. */
  readonly 'memory-failure': {
    readonly recipient: 'hypervisor' | 'guest' | Unnamed;
    readonly action: 'ignore' | 'inject' | 'fatal' | 'reset' | Unnamed;
    readonly actionRequired: boolean;
    readonly recursive: boolean;
  };
}

/**
 * libvirt's typed parameters by their names: `cpu.time` (ns), `balloon.current` (KiB), … as documented at
 * virConnectGetAllDomainStats. 64-bit numbers are exact up to 2^53.
 */
export type Statistics = Readonly<Record<string, number | string | boolean>>;

export type EventKind = keyof EventDetails;

/** An event of one kind. */
export type DomainEvent<Kind extends EventKind = EventKind> = {
  readonly [K in Kind]: { readonly kind: K; readonly domain: EventDomain } & EventDetails[K];
}[Kind];

/** Instead of events that found 16,384 others waiting for the listener. */
export interface LostEvents {
  readonly kind: 'lost';
  readonly count: number;
}
