// SPDX-License-Identifier: Apache-2.0

/**
 * Events that mean something for the cluster become incidents, each told to it once. Rows that no rule is about cost a comparison for
 * each run of their kind; a row of an incident that is open costs a counter.
 */

import type { Logger } from '../../log.ts';
import type { Family } from '../prometheus/page.ts';
import { Actuator, type ActuatorSettings, type GuestCondition } from './actuator.ts';
import { ClusterCommands, type CommandOptions } from './commands.ts';
import { type Incident, keyOf } from './incident.ts';
import { type EventDocument, IncidentFiles, mostEvents } from './incident-files.ts';
import { Ledger } from './ledger.ts';
import { type EventWord, GuestRules, type Meaning, meaningOf, type Rule, usualRules } from './rules.ts';
import { Tally } from './tally.ts';
import { evidenceOf, type WatchedBatch, WatchedGuest } from './watched-guest.ts';

export interface PacemakerSettings extends ActuatorSettings {
  readonly rules: readonly Rule[];
}

export interface PacemakerParts {
  readonly log: Logger;
  readonly settings: PacemakerSettings;
  readonly commands: CommandOptions;
  /** File that what is owed is kept in. */
  readonly ledgerPath: string;
  /** Directory with a file for each incident. */
  readonly incidentsPath: string;
  /** The last events of a boot of a guest, oldest first. */
  readonly lastEvents: (uuid: string, bootId: string, most: number) => readonly EventDocument[];
  /** The process of a pid file died: soon there is another one. */
  readonly pidGone?: ((uuid: string) => void) | undefined;
  /** Whether the pattern of a rule means a guest. */
  readonly matchesGuest: (
    pattern: string,
    guest: { readonly name: string; readonly uuid: string },
  ) => boolean;
}

/** Two signs that confirm each other come within this time. */
const signsWithinMs = 30_000;
const mostOwed = 256;
/** Later than any event of the same boot. */
const noneLaterNs = Number.MAX_SAFE_INTEGER;
/** A sign that is told again and again is looked at so often. */
const sameSignMs = 1_000;

type Seen = Pick<Incident, 'evidence' | 'lastMs' | 'lastNs'>;

export class PacemakerSink {
  readonly name = 'pacemaker';
  readonly #log: Logger;
  readonly #guests = new Map<string, WatchedGuest>();
  readonly #matchesGuest: PacemakerParts['matchesGuest'];
  readonly #ledger: Ledger;
  readonly #actuator: Actuator;
  readonly #tally = new Tally();
  readonly #lastEvents: PacemakerParts['lastEvents'];
  readonly #pidGone: PacemakerParts['pidGone'];
  /** What is known of incidents, also of those that are over. */
  readonly incidents: IncidentFiles;
  /** Incidents that are only counted, by their key: until the guest boots anew. */
  readonly #recorded = new Map<string, Incident>();
  #rules: readonly Rule[];

  /** Throws HOST where the ledger cannot be used. */
  constructor(parts: PacemakerParts) {
    const { log, settings, commands, ledgerPath } = parts;
    this.#log = log;
    this.#matchesGuest = parts.matchesGuest;
    this.#lastEvents = parts.lastEvents;
    this.#pidGone = parts.pidGone;
    this.incidents = new IncidentFiles(parts.incidentsPath, log);
    this.#rules = [...usualRules, ...settings.rules];
    this.#ledger = new Ledger(ledgerPath, log);
    this.#actuator = new Actuator({
      commands: new ClusterCommands(commands),
      ledger: this.#ledger,
      log,
      settings,
      conditionOf: (incident) => this.#conditionOf(incident),
      told: (incident) => this.incidents.update(incident, null),
      over: (incident, outcome) => {
        this.#tally.over(incident.action, outcome);
        this.incidents.update(incident, outcome);
      },
    });
  }

  /** Goes on with what a former service left undone. */
  start(): void {
    this.#actuator.start();
    for (const incident of this.#ledger.owed.values()) {
      const { guest, event, evidence } = incident;
      this.#log.info({ guest }, `${guest}: ${event}: ${evidence}: the cluster is owed this from before`);
      this.#actuator.add(incident);
    }
  }

  /** Rules hold from the next event on. */
  configure(settings: PacemakerSettings): void {
    this.#rules = [...usualRules, ...settings.rules];
    this.#actuator.configure(settings);
    for (const guest of this.#guests.values()) {
      guest.rules = this.#rulesOf(guest);
      guest.keys.clear();
    }
  }

  /** Calls that are under way go on; what is owed is in the ledger. */
  close(): void {
    this.#actuator.close();
    this.#ledger.close();
  }

  /** Why the cluster cannot be reached, for people. */
  get problem(): string | undefined {
    return this.#actuator.problem;
  }

  deliver(batch: WatchedBatch): void {
    const { columns, length } = batch;
    const { slot, event, payloadBytes } = columns;
    const guest = this.#guest(batch.incarnation.uuid, batch.incarnation.guest);
    let candidates: ReturnType<GuestRules['candidates']> = [];
    let before = -1;
    for (let row = 0; row < length; row += 1) {
      // Rows of one kind come in runs; a row of another length than the last one may not be decodable.
      if (
        before < 0 ||
        slot[row] !== slot[before] ||
        event[row] !== event[before] ||
        payloadBytes[row] !== payloadBytes[before]
      ) {
        const decoder = batch.decoder(row);
        candidates = decoder === undefined ? [] : guest.rules.candidates(batch.probeName(row), decoder);
        before = row;
      }
      if (candidates.length === 0) continue;
      const meaning = meaningOf(candidates, columns, row);
      if (meaning !== undefined) this.#means(guest, meaning, batch, row);
    }
  }

  /** The session of a guest; its boot is over when another one is seen. */
  booted(uuid: string, name: string, bootId: string): void {
    const guest = this.#guest(uuid, name);
    if (guest.bootId === bootId) return;
    guest.bootId = bootId;
    this.#forget(guest);
    this.#actuator.nudge(uuid);
  }

  /** What happened to it before matters no more. */
  ended(uuid: string, name: string, reason: string): void {
    const guest = this.#guest(uuid, name);
    guest.over = { bootId: guest.bootId, reason };
    this.#forget(guest);
    this.#actuator.nudge(uuid);
  }

  /** Whether the machine stands still because somebody wants it so. */
  paused(uuid: string, name: string, paused: boolean): void {
    this.#guest(uuid, name).paused = paused;
  }

  /** The guest's kernel died and writes a crash dump. */
  dumping(uuid: string, name: string): void {
    this.#guest(uuid, name).dumping = true;
  }

  /** The files of the guest that rules ask for, each with the number of a process. */
  pidFiles(uuid: string, name: string): readonly string[] {
    return this.#guest(uuid, name).rules.pidFiles;
  }

  /** What stands in one of them now; undefined: nothing, or nobody knows. */
  pidRead(uuid: string, name: string, pidFile: string, pid: number | undefined): void {
    const { pids, deadPids } = this.#guest(uuid, name);
    // A daemon that crashed leaves its file.
    if (pid === undefined || pid === deadPids.get(pidFile)) pids.delete(pidFile);
    else {
      pids.set(pidFile, pid);
      deadPids.delete(pidFile);
    }
  }

  /** What is not told by an event of a probe: silence, or a panic that the hypervisor tells. */
  told(uuid: string, name: string, word: EventWord, evidence: string): void {
    const guest = this.#guest(uuid, name);
    const meaning = guest.rules.ofWord(word);
    if (meaning === undefined) return;
    const lastNs = word === 'panic' ? noneLaterNs : 0;
    this.#weigh(guest, meaning, guest.bootId, () => ({ evidence, lastMs: Date.now(), lastNs }));
  }

  /** A sign that means nothing by itself, and confirms others. */
  sign(uuid: string, name: string, kind: string): void {
    this.#sign(this.#guest(uuid, name), kind, undefined);
  }

  families(): readonly Family[] {
    return this.#tally.families(this.#ledger.owed.size, this.#actuator.calls);
  }

  #means(guest: WatchedGuest, meaning: Meaning, batch: WatchedBatch, row: number): void {
    const panic = meaning.event === 'panic';
    if (meaning.rule.pidFile !== undefined) this.#processDied(guest, meaning);
    const lastNs = panic ? noneLaterNs : (batch.columns.timeNs[row] as number);
    const { bootId } = batch.incarnation;
    this.#tally.events += 1;
    const key = this.#key(guest, meaning, bootId);
    const open = this.#ledger.owed.get(key) ?? this.#recorded.get(key);
    const nowMs = Date.now();
    // A guest writes what times it likes.
    const lastMs = Math.min(batch.hostTimeMs(row), nowMs);
    if (open !== undefined) {
      open.count += 1;
      open.lastMs = Math.max(open.lastMs, lastMs);
      open.lastNs = Math.max(open.lastNs, lastNs);
      return;
    }
    if (this.#ledger.knows(key, lastNs)) return;
    if (meaning.rule.secondSign && nowMs - (guest.signs.get(meaning.event)?.atMs ?? 0) < sameSignMs) return;
    this.#weigh(guest, meaning, bootId, () => ({ evidence: evidenceOf(batch, row), lastMs, lastNs }));
  }

  /** A process that the OOM killer chose is told to have died after that. */
  #processDied({ uuid, pids, deadPids }: WatchedGuest, { event, rule }: Meaning): void {
    const { pidFile = '' } = rule;
    const pid = pids.get(pidFile);
    if (pid === undefined || (event !== 'crash' && event !== 'oom')) return;
    this.#pidGone?.(uuid);
    if (event === 'oom') return;
    pids.delete(pidFile);
    deadPids.set(pidFile, pid);
  }

  /** As keyOf, made once for each boot and meaning. */
  #key({ uuid, bootId: current, keys }: WatchedGuest, meaning: Meaning, bootId: string): string {
    const { action, resource } = meaning.rule;
    const known = bootId === current ? keys.get(meaning) : undefined;
    if (known !== undefined) return known;
    const key = keyOf({ uuid, bootId, action, resource });
    if (bootId === current) keys.set(meaning, key);
    return key;
  }

  /** What needs a second sign waits for it; anything else is an incident. */
  #weigh(guest: WatchedGuest, meaning: Meaning, bootId: string, seen: () => Seen): void {
    const first = seen();
    if (meaning.rule.secondSign)
      this.#sign(guest, meaning.event, () => this.#open(guest, meaning, bootId, first));
    else this.#open(guest, meaning, bootId, first);
  }

  #sign(guest: WatchedGuest, kind: string, open: (() => void) | undefined): void {
    const nowMs = Date.now();
    for (const [other, { atMs }] of guest.signs) if (atMs < nowMs - signsWithinMs) guest.signs.delete(other);
    guest.signs.set(kind, { atMs: nowMs, open });
    if (guest.signs.size < 2) {
      if (open === undefined) return;
      this.#tally.unconfirmed += 1;
      this.#log.warn({ guest: guest.name }, `${guest.name}: ${kind}: nothing is done before a second sign`);
      return;
    }
    const meant = [...guest.signs.values()].map((sign) => sign.open).filter((one) => one !== undefined);
    if (meant.length > 0) guest.signs.clear();
    for (const one of meant) one();
  }

  #open(guest: WatchedGuest, meaning: Meaning, bootId: string, seen: Seen): void {
    const { action, resource, where } = meaning.rule;
    const incident: Incident = {
      id: '',
      guest: guest.name,
      uuid: guest.uuid,
      bootId,
      action,
      ...(resource === undefined ? {} : { resource }),
      event: meaning.event,
      where,
      firstMs: Date.now(),
      count: 1,
      calls: 0,
      steps: [],
      ...seen,
    };
    const key = keyOf(incident);
    const open = this.#ledger.owed.get(key);
    if (open !== undefined) {
      open.count += 1;
      open.lastNs = Math.max(open.lastNs, seen.lastNs);
      return;
    }
    if (this.#ledger.knows(key, seen.lastNs)) return;
    incident.id = this.incidents.newId();
    if (action === 'record') {
      this.#recorded.set(key, incident);
      this.#keep(incident, 'done');
      this.#tally.over(action, 'done');
      const { event, evidence } = incident;
      this.#log.info({ guest: guest.name, rule: where }, `${guest.name}: ${event}: ${evidence}: recorded`);
      return;
    }
    if (this.#ledger.owed.size >= mostOwed) {
      this.#tally.dropped += 1;
      this.#log.error(
        { guest: guest.name, rule: where },
        `${guest.name}: ${incident.event}: ${incident.evidence}: not told to the cluster, which is owed ${mostOwed} others`,
      );
      return;
    }
    this.#ledger.open(incident);
    this.#actuator.add(incident);
    // The cluster is being asked already.
    this.#keep(incident, null);
  }

  #keep(incident: Incident, outcome: 'done' | null): void {
    const { uuid, bootId } = incident;
    this.incidents.open(incident, outcome, this.#lastEvents(uuid, bootId, mostEvents));
  }

  #conditionOf({ uuid, bootId }: Incident): GuestCondition {
    const guest = this.#guests.get(uuid);
    const over = bootId === '' || guest?.over?.bootId === bootId ? guest?.over?.reason : undefined;
    return {
      bootId: guest === undefined || guest.bootId === '' ? undefined : guest.bootId,
      over,
      paused: guest?.paused ?? false,
      dumping: guest?.dumping ?? false,
    };
  }

  /** What was known of the boot that is over. */
  #forget(guest: WatchedGuest): void {
    guest.signs.clear();
    guest.keys.clear();
    guest.pids.clear();
    guest.deadPids.clear();
    guest.dumping = false;
    for (const [key, incident] of this.#recorded) {
      const { uuid, count, event, evidence, guest: name } = incident;
      if (uuid !== guest.uuid) continue;
      this.#recorded.delete(key);
      if (count > 1) this.incidents.update(incident, 'done');
      if (count > 1) this.#log.info({ guest: name }, `${name}: ${event}: ${evidence}: ${count} such events`);
    }
  }

  #guest(uuid: string, name: string): WatchedGuest {
    const known = this.#guests.get(uuid);
    if (known?.name === name) return known;
    const guest = known ?? new WatchedGuest(uuid, name);
    guest.name = name;
    guest.rules = this.#rulesOf(guest);
    this.#guests.set(uuid, guest);
    return guest;
  }

  #rulesOf(guest: WatchedGuest): GuestRules {
    return new GuestRules(
      this.#rules.filter((rule) => this.#matchesGuest(rule.guest, guest)),
      (pidFile) => guest.pids.get(pidFile),
    );
  }
}
