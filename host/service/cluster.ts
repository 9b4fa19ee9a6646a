// SPDX-License-Identifier: Apache-2.0

/** What the service knows of its guests, beside their events, as the sink for Pacemaker wants to be told it. */

import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { Logger } from '../log.ts';
import type { LifecycleEvent } from '../provider/provider.ts';
import { type PacemakerSettings, PacemakerSink } from '../sink/pacemaker/sink.ts';
import type { Bus } from './bus.ts';
import type { PacemakerConfig } from './config.ts';
import { matchesGuest } from './guest-pattern.ts';
import { lastEvents } from './last-events.ts';
import type { ManagedGuest } from './managed-guest.ts';
import { PidFiles } from './pid-files.ts';
import type { RecentEvents } from './recent-events.ts';

/** What of the service it looks at. */
export interface ClusteredService {
  readonly log: Logger;
  readonly bus: Bus;
  readonly recent: RecentEvents;
  guests(): readonly ManagedGuest[];
  watchGuests(found: () => void): () => void;
}

interface Followed {
  readonly guest: ManagedGuest;
  silent: boolean;
  panicked: boolean;
  watching: NodeJS.Timeout | undefined;
}

/** The frontend writes its heartbeat once a second. */
const beatEveryMs = 1_000;
const missedBeats = 3;
/** Pacemaker heeds no one else, and tells others of its group that all is well. */
const heededUsers: ReadonlySet<string> = new Set(['root', 'hacluster']);

export class Cluster {
  readonly sink: PacemakerSink;
  readonly #pidFiles: PidFiles;
  readonly #service: ClusteredService;
  /** By UUID. */
  readonly #followed = new Map<string, Followed>();
  readonly #unheeded: string | undefined;

  constructor(service: ClusteredService, config: PacemakerConfig, stateDirectory: string) {
    this.#service = service;
    const { username } = userInfo();
    this.#unheeded = heededUsers.has(username)
      ? undefined
      : `Pacemaker ignores the user ${username}: run the service as root or hacluster`;
    if (this.#unheeded !== undefined) service.log.error(this.#unheeded);
    this.sink = new PacemakerSink({
      log: service.log,
      settings: config.settings,
      commands: config.commands,
      ledgerPath: join(stateDirectory, 'pacemaker.json'),
      incidentsPath: join(stateDirectory, 'incidents'),
      lastEvents: (uuid, bootId, most) => lastEvents(service.recent, uuid, bootId, most),
      matchesGuest,
      pidGone: (uuid) => this.#pidFiles.hurry(uuid),
    });
    this.#pidFiles = new PidFiles(this.sink, service.log);
    service.bus.add(this.sink);
    service.watchGuests(() => this.#follow());
  }

  /** Why the cluster is not told of what happens, for people. */
  get problem(): string | undefined {
    return this.#unheeded ?? this.sink.problem ?? this.#pidFiles.problem;
  }

  configure(settings: PacemakerSettings): void {
    this.sink.configure(settings);
    this.#pidFiles.reread();
  }

  close(): void {
    for (const { watching } of this.#followed.values()) clearInterval(watching);
    this.#pidFiles.close();
    this.sink.close();
  }

  #follow(): void {
    const guests = new Set(this.#service.guests());
    for (const [uuid, { guest, watching }] of this.#followed) {
      if (guests.has(guest)) continue;
      clearInterval(watching);
      this.#followed.delete(uuid);
      this.#pidFiles.forget(uuid);
    }
    for (const guest of guests) {
      const { uuid } = guest.machine;
      if (this.#followed.has(uuid)) continue;
      const followed: Followed = { guest, silent: false, panicked: false, watching: undefined };
      this.#followed.set(uuid, followed);
      guest.watch(() => this.#look(followed));
      guest.watchLifecycle((event) => this.#lifecycle(followed, event));
      this.#look(followed);
    }
  }

  #look(followed: Followed): void {
    const { guest } = followed;
    const { machine, session, kernelDied: panicked } = guest;
    const { uuid, name } = machine;
    if (this.#followed.get(uuid) !== followed) return;
    if (session !== undefined) this.sink.booted(uuid, name, session.incarnation.bootId);
    this.#pidFiles.look(guest);
    this.sink.paused(uuid, name, machine.state === 'paused');
    if (panicked && !followed.panicked) this.sink.told(uuid, name, 'panic', guest.reason);
    followed.panicked = panicked;
    const silent = guest.state === 'lost' && session !== undefined;
    if (silent === followed.silent) return;
    followed.silent = silent;
    clearInterval(followed.watching);
    if (!silent) return;
    this.sink.told(uuid, name, 'silence', guest.reason);
    this.#watchHeartbeat(followed);
  }

  /** The guest's kernel writes it without anybody asking: where it stands still, too, that is another sign. */
  #watchHeartbeat(followed: Followed): void {
    const { machine, session } = followed.guest;
    // Without shared memory it comes over the channel, and tells nothing new.
    if (session === undefined || session.place.backend === 'inline') return;
    let last = session.heartbeatNs;
    let missed = 0;
    followed.watching = setInterval(() => {
      const now = session.heartbeatNs;
      missed = now === last && machine.state === 'running' ? missed + 1 : 0;
      last = now;
      if (missed < missedBeats) return;
      clearInterval(followed.watching);
      this.sink.sign(machine.uuid, machine.name, 'heartbeat');
    }, beatEveryMs);
  }

  #lifecycle(followed: Followed, event: LifecycleEvent): void {
    const { uuid, name } = followed.guest.machine;
    if (this.#followed.get(uuid) !== followed) return;
    if (event.kind === 'rebooted') this.sink.ended(uuid, name, 'the guest rebooted');
    else if (event.kind === 'stopped') this.sink.ended(uuid, name, event.reason);
    else if (event.kind === 'dumping') this.sink.dumping(uuid, name);
  }
}
