// SPDX-License-Identifier: Apache-2.0

/**
 * Brings what happened to the cluster: resolves the node just before, calls once, looks whether the cluster acted, and tries again
 * later where it could not be reached. One call at a time for each guest; nothing here ever waits on behalf of another guest.
 */

import { messageOf, VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import type { ClusterStatus, HistoryMark, ResourceHistory } from './cluster-status.ts';
import type { ClusterCommands } from './commands.ts';
import { fenceTargetOf } from './fence-target.ts';
import { addStep, attributeName, explanation, type Incident, printable } from './incident.ts';
import { Lanes } from './lanes.ts';
import type { Ledger } from './ledger.ts';
import { MachineMemory } from './machine-memory.ts';
import { mostPollMs, Outlook, secondOf } from './outlook.ts';
import { RateLimit } from './rate-limit.ts';
import { type Refusal, targetOf } from './target.ts';

export interface ActuatorSettings {
  /** Between two calls about the same resource. */
  readonly cooldownMs: number;
  /** Calls in any minute, about all resources. */
  readonly callsPerMinute: number;
  /** How long the cluster is owed something. */
  readonly keepMs: number;
  /** How long a crash dump may hold an action. */
  readonly dumpMs: number;
  /** Of this host; undefined: what the cluster calls the node we run on; `any`: guests may run on any. */
  readonly node: string | undefined;
  /** Resources that are guests, by the name of the guest, where their configuration does not say it. */
  readonly vms: Readonly<Record<string, string>>;
  /** Nodes that are guests, by the name of the guest, beside the guest nodes of the cluster. */
  readonly nodes?: Readonly<Record<string, string>> | undefined;
}

/** What the service knows of a guest, at the moment it is asked. */
export interface GuestCondition {
  /** Of the boot that is running; undefined: not known now. */
  readonly bootId: string | undefined;
  /** Rebooted, or gone, since the incident's boot. */
  readonly over: string | undefined;
  readonly paused: boolean;
  readonly dumping: boolean;
}

export type Outcome =
  | Refusal
  /** The cluster acted. */
  | 'done'
  /** It said that it would, and did not. */
  | 'unconfirmed'
  /** A command was refused. */
  | 'failed'
  /** It was not reached for too long. */
  | 'given_up'
  /** The cluster has nothing to fence the node with. */
  | 'no_fencing'
  | 'guest_rebooted'
  | 'guest_paused'
  /** The resource was started anew since. */
  | 'recovered';

type Step =
  | { readonly kind: 'over'; readonly outcome: Outcome; readonly sentence: string }
  | { readonly kind: 'later'; readonly afterMs: number; readonly sentence: string };

const confirmLimitMs = 20_000;
/** A node may be fenced for so long before nobody knows what became of it. */
const fenceLimitMs = 180_000;
const recoveryLimitMs = 60_000;
/** A change of an attribute makes the cluster plan anew, so what happened is written when it has recovered, or after that time. */
const explainedWithinMs = 2_000;
/** What happens between two looks may be of the resource before it was started anew, or after. */
const recoveryPollMs = 250;
const mostCalls = 3;
const longestRetryMs = 30_000;
const lookAgainMs = 30_000;
/** Within that time no cluster finds a failure by itself and starts anew what failed. */
const foundLateMs = 5_000;

export class Actuator {
  readonly #commands: ClusterCommands;
  readonly #memory: MachineMemory;
  readonly #outlook: Outlook;
  readonly #ledger: Ledger;
  readonly #log: Logger;
  readonly #conditionOf: (incident: Incident) => GuestCondition;
  readonly #over: (incident: Incident, outcome: Outcome) => void;
  readonly #told: (incident: Incident) => void;
  readonly #lanes = new Lanes<Incident>((incident) => this.#take(incident));
  readonly #attempts = new WeakMap<Incident, number>();
  /** Of what runs on guest nodes: the call of the last start when an incident was first looked at. */
  readonly #startCalls = new WeakMap<Incident, number>();
  readonly #closing = new AbortController();
  #settings: ActuatorSettings;
  #rate: RateLimit;
  #ownNode: string | undefined;
  #looking: NodeJS.Timeout | undefined;
  /** Why the cluster cannot be reached, for people; undefined: it can, as far as is known. */
  problem: string | undefined;
  calls = 0;

  constructor(parts: {
    readonly commands: ClusterCommands;
    readonly ledger: Ledger;
    readonly log: Logger;
    readonly settings: ActuatorSettings;
    readonly conditionOf: (incident: Incident) => GuestCondition;
    readonly over: (incident: Incident, outcome: Outcome) => void;
    /** Something was done about it. */
    readonly told: (incident: Incident) => void;
  }) {
    this.#commands = parts.commands;
    this.#outlook = new Outlook(parts.commands, parts.log, this.#closing.signal);
    this.#memory = new MachineMemory({
      status: () => parts.commands.status(),
      machines: () => parts.commands.machines(),
    });
    this.#ledger = parts.ledger;
    this.#log = parts.log;
    this.#settings = parts.settings;
    this.#conditionOf = parts.conditionOf;
    this.#over = parts.over;
    this.#told = parts.told;
    this.#rate = new RateLimit(parts.settings.callsPerMinute);
  }

  configure(settings: ActuatorSettings): void {
    if (settings.callsPerMinute !== this.#settings.callsPerMinute)
      this.#rate = new RateLimit(settings.callsPerMinute);
    this.#settings = settings;
  }

  /** Finds out whether the cluster can be reached, before something happens. */
  start(): void {
    void this.#look();
  }

  /** Of an incident that is in the ledger. */
  add(incident: Incident): void {
    this.#lanes.add(incident.uuid, incident, 0);
  }

  /** A guest's condition changed: what waits for it looks again. */
  nudge(uuid: string): void {
    this.#lanes.hurry(uuid);
  }

  close(): void {
    this.#closing.abort();
    clearTimeout(this.#looking);
    this.#memory.close();
    this.#lanes.close();
  }

  /** One step with an incident; in how many milliseconds there is another, undefined: it is over. */
  async #take(incident: Incident): Promise<number | undefined> {
    const step = await this.#step(incident).catch((thrown: unknown) => this.#failed(incident, thrown));
    if (this.#closing.signal.aborted) return undefined;
    addStep(incident, step.sentence);
    const about = { guest: incident.guest, resource: incident.called?.resource ?? incident.resource };
    if (step.kind === 'later') {
      this.#log.debug(about, `${incident.guest}: ${incident.event}: ${step.sentence}`);
      return step.afterMs;
    }
    const sentence = `${incident.guest}: ${incident.event}: ${incident.evidence}: ${step.sentence}`;
    const facts = { ...about, outcome: step.outcome, events: incident.count, rule: incident.where };
    if (loud.has(step.outcome)) this.#log.error(facts, sentence);
    else this.#log.info(facts, sentence);
    this.#ledger.settle(incident);
    this.#over(incident, step.outcome);
    return undefined;
  }

  async #step(incident: Incident): Promise<Step> {
    const unfit = this.#unfit(incident);
    if (unfit !== undefined) return unfit;
    const [{ status, machines }, ownNode] = await Promise.all([
      this.#memory.look(),
      this.#settings.node ?? this.#nameOfOwnNode(),
    ]);
    this.problem = undefined;
    if (!status.coordinator) throw new VesperError('UNREACHABLE', 'the cluster has no coordinator now');
    const { called } = incident;
    if (called?.fence !== undefined) {
      const fate = await this.#outlook.fateOf(called.fence, called.atMs);
      if (fate === 'success') return this.#acted(incident);
      if (fate !== 'failed' && Date.now() - called.atMs < fenceLimitMs)
        return later(mostPollMs, `${called.fence} is being fenced`);
    } else if (called !== undefined) {
      const history = status.history(called.resource, called.node);
      if (differs(history, called.mark)) return this.#acted(incident);
      // Of a service before us; the call may be under way still.
      if (Date.now() - called.atMs < confirmLimitMs)
        return later(mostPollMs, 'the call is not confirmed yet');
    }
    const guest = { name: incident.guest, uuid: incident.uuid };
    const { vms, nodes } = this.#settings;
    const where = { ownNode: ownNode === 'any' ? undefined : ownNode, vms, nodes };
    const target =
      incident.action === 'fence'
        ? await fenceTargetOf(guest, status, machines, where)
        : await targetOf(guest, incident.resource, status, machines, where);
    if (target.kind === 'busy') return this.#again(incident, target.sentence);
    if (target.kind === 'refused') {
      const { refusal, sentence } = target;
      return over(refusal, sentence);
    }
    const { resource, node, fence } = target;
    const history = status.history(resource, node);
    if (this.#startedSince(incident, history, hasOwnClock(status, node)))
      return over('recovered', `${resource} was started on ${node} since`);
    const cooldownMs = (this.#ledger.actedAt(resource) ?? 0) + this.#settings.cooldownMs - Date.now();
    if (incident.action !== 'attribute' && cooldownMs > 0)
      return later(cooldownMs, `the cluster was called about ${resource} a short while ago`);
    const device =
      fence !== undefined && status.fencing && (await this.#commands.fenceDevices(fence)).length > 0;
    if (fence === resource && !device)
      return over('no_fencing', `${fence} is not fenced: ${lack(status, fence)}`);
    // It took a while to find out: the guest may have been paused or have rebooted since.
    const unfitNow = this.#unfit(incident);
    if (unfitNow !== undefined) return unfitNow;
    // What a service that stops has not begun is for the next one.
    if (this.#closing.signal.aborted) return later(0, 'the service stops');
    const waitMs = this.#rate.take(Date.now());
    if (waitMs > 0) return later(waitMs, 'the limit of calls is reached');
    if (incident.action === 'attribute') return this.#mark(incident, resource, node);
    if (fence !== undefined && device) return this.#fence(incident, fence, resource, node, history);
    // Pacemaker itself fences a guest node so.
    if (fence !== undefined) addStep(incident, `${fence} is fenced by way of its machine`);
    return this.#fail(incident, resource, node, history);
  }

  /**
   * Whether the resource was started after the incident's last event. A guest's clock may say anything, so what began on a guest node
   * later than when we first looked is known by its call; only of what was found too late to know is the clock believed.
   */
  #startedSince(incident: Incident, { startCall, startedMs }: ResourceHistory, ownClock: boolean): boolean {
    const later = secondOf(startedMs ?? 0) > secondOf(incident.lastMs);
    if (!ownClock) return later;
    const firstSeen = this.#startCalls.get(incident);
    if (firstSeen !== undefined) return startCall !== firstSeen;
    this.#startCalls.set(incident, startCall);
    return later && Date.now() - incident.lastMs > foundLateMs;
  }

  /** Why an incident is over, or held, whatever the cluster says; a call that was begun is seen to its end. */
  #unfit(incident: Incident): Step | undefined {
    const { over: reason, bootId, paused, dumping } = this.#conditionOf(incident);
    if (incident.called !== undefined) return undefined;
    if (reason !== undefined) return over('guest_rebooted', reason);
    if (bootId !== undefined && incident.bootId !== '' && bootId !== incident.bootId)
      return over('guest_rebooted', 'the guest has booted anew since');
    // A machine whose kernel panicked is often stopped by its hypervisor.
    if (paused && incident.event !== 'panic') return over('guest_paused', 'the machine is paused');
    const heldMs = Date.now() - incident.firstMs;
    if (dumping && heldMs < this.#settings.dumpMs)
      return later(this.#settings.dumpMs - heldMs, 'the guest writes a crash dump');
    return undefined;
  }

  async #fail(incident: Incident, resource: string, node: string, mark: HistoryMark): Promise<Step> {
    if (incident.calls >= mostCalls)
      return over('unconfirmed', `${resource} was failed on ${node} ${mostCalls} times, to no effect`);
    await this.#call(incident, { resource, node, mark }, `failing ${resource} on ${node}`, () =>
      this.#commands.fail(resource, node),
    );
    return this.#confirmed(incident);
  }

  /** Of a node that the cluster has a device for. */
  async #fence(
    incident: Incident,
    fence: string,
    resource: string,
    node: string,
    mark: HistoryMark,
  ): Promise<Step> {
    if (incident.calls >= mostCalls)
      return over('unconfirmed', `${fence} was to be fenced ${mostCalls} times, to no effect`);
    try {
      await this.#call(incident, { resource, node, mark, fence }, `fencing ${fence}`, () =>
        this.#commands.fence(fence),
      );
    } catch (thrown) {
      // What a device could not do now it may do in a while.
      if (thrown instanceof VesperError && thrown.code === 'PROVIDER')
        return this.#again(incident, messageOf(thrown));
      throw thrown;
    }
    // The command waits until it was done, and fails where it was not.
    return this.#acted(incident);
  }

  /** Calls the cluster, on record: who comes after us sees that it was done. */
  async #call(
    incident: Incident,
    { mark, ...at }: Omit<NonNullable<Incident['called']>, 'atMs'>,
    doing: string,
    call: () => Promise<void>,
  ): Promise<void> {
    const { lastCall, failCount, lastFailure } = mark;
    const atMs = Date.now();
    incident.called = { ...at, mark: { lastCall, failCount, lastFailure }, atMs };
    incident.calls += 1;
    addStep(incident, doing);
    this.#ledger.save();
    this.calls += 1;
    // Begun before anything is logged or written: it is what somebody waits for.
    const called = call();
    const { resource, node } = at;
    this.#log.warn(
      { guest: incident.guest, resource, node, rule: incident.where },
      `${incident.guest}: ${incident.event}: ${incident.evidence}: ${doing}`,
    );
    this.#told(incident);
    try {
      await called;
    } catch (thrown) {
      // Refused, so it was not done; whether one that took too long was done will show.
      if (!(thrown instanceof VesperError) || thrown.code !== 'TIMEOUT') incident.called = undefined;
      this.#ledger.save();
      throw thrown;
    }
    this.#ledger.acted(resource, atMs);
  }

  /** Waits until the cluster shows that it acted. */
  async #confirmed(incident: Incident): Promise<Step> {
    const { called } = incident;
    if (called === undefined) return later(0, 'there was no call');
    const seen = await this.#outlook.poll(confirmLimitMs, (status) =>
      differs(status.history(called.resource, called.node), called.mark),
    );
    if (seen) return this.#acted(incident);
    return this.#again(incident, `${called.resource} on ${called.node}: the cluster did not act`);
  }

  /** Events that come until the resource is there again are of this incident. */
  async #acted(incident: Incident): Promise<Step> {
    const { called } = incident;
    if (called === undefined) return later(0, 'there was no call');
    const { resource, node, mark, atMs, fence } = called;
    const done = fence === undefined ? `failed on ${node}` : `${fence} was fenced`;
    const what = fence === undefined ? `${resource} was failed on ${node}` : done;
    addStep(incident, what);
    // What is written of a node that was fenced goes with it.
    const shownOn = fence === undefined || fence !== node ? node : await this.#nameOfOwnNode();
    // No resource: it is the node itself, which is no machine of the cluster.
    if (resource === fence) {
      await this.#explain(incident, shownOn, resource, done);
      return over('done', what);
    }
    // What began before it cannot be of the resource as it was started anew.
    let lookMs = Date.now();
    let lastLookMs = lookMs;
    const startedAnew = (status: ClusterStatus): boolean => {
      const instances = status.resources.filter(({ id }) => id === resource);
      const anew = (name: string): boolean => {
        const { startCall, startedMs, lastCall } = status.history(resource, name);
        if (name !== node || !hasOwnClock(status, name)) return secondOf(startedMs ?? 0) >= secondOf(atMs);
        // Where the guest booted anew the calls are counted anew, too.
        return startCall > mark.lastCall || (startCall >= 0 && lastCall < mark.lastCall);
      };
      return instances.some(
        ({ nodes, pending, role }) => pending === undefined && role !== 'Stopped' && nodes.some(anew),
      );
    };
    const look = (status: ClusterStatus): boolean => {
      const seen = startedAnew(status);
      if (!seen) {
        lastLookMs = lookMs;
        lookMs = Date.now();
      }
      return seen;
    };
    const soon = await this.#outlook.poll(explainedWithinMs, look, recoveryPollMs);
    const explained = incident.count;
    await this.#explain(incident, shownOn, resource, done);
    const again = soon || (await this.#outlook.poll(recoveryLimitMs, look, recoveryPollMs));
    if (again && incident.lastMs > lastLookMs && incident.action === 'fail')
      return this.#onceMore(incident, resource);
    if (incident.count > explained) await this.#explain(incident, shownOn, resource, done);
    const it = fence === undefined ? 'it' : resource;
    const since = again ? `and ${it} was started anew` : `and ${it} is not started yet`;
    return over('done', `${what}, ${since}`);
  }

  /** Its process died again while nobody had seen yet that it was started anew: that is another failure. */
  #onceMore(incident: Incident, resource: string): Step {
    incident.called = undefined;
    incident.calls = 0;
    this.#startCalls.delete(incident);
    this.#ledger.save();
    return later(0, `${resource} was started anew, and failed once more`);
  }

  async #mark(incident: Incident, resource: string, node: string): Promise<Step> {
    const name = `${attributeName(resource)}-failed`;
    this.calls += 1;
    await this.#commands.setAttribute(node, name, '1');
    const seen = await this.#outlook.poll(confirmLimitMs, (status) => status.attribute(node, name) === '1');
    if (!seen) return this.#again(incident, `${name} did not appear on ${node}`);
    await this.#explain(incident, node, resource, `${name} was set on ${node}`);
    return over('done', `${name} was set on ${node}`);
  }

  /** Says in the cluster why; who looks at it there need not know of us. */
  async #explain(incident: Incident, node: string, resource: string, outcome: string): Promise<void> {
    try {
      const name = printable(attributeName(resource));
      await this.#commands.setAttribute(node, name, explanation(incident, outcome));
    } catch (thrown) {
      this.#log.warn(
        { guest: incident.guest, resource, node },
        `what happened could not be written into the cluster: ${messageOf(thrown)}`,
      );
    }
  }

  /** While something is wrong and nothing happens that would show when it no longer is. */
  async #look(): Promise<void> {
    try {
      const named = this.#settings.node ?? this.#nameOfOwnNode();
      await Promise.all([this.#memory.look(), named]);
      this.problem = undefined;
    } catch (thrown) {
      this.#troubled(messageOf(thrown));
    }
  }

  #troubled(sentence: string): void {
    if (this.problem === undefined) this.#log.warn(`the cluster cannot be told anything: ${sentence}`);
    this.problem = sentence;
    clearTimeout(this.#looking);
    if (this.#closing.signal.aborted) return;
    this.#looking = setTimeout(() => void this.#look(), lookAgainMs);
    this.#looking.unref();
  }

  async #nameOfOwnNode(): Promise<string> {
    this.#ownNode ??= await this.#commands.ownNode();
    return this.#ownNode;
  }

  #failed(incident: Incident, thrown: unknown): Step {
    const sentence = messageOf(thrown);
    const code = thrown instanceof VesperError ? thrown.code : 'HOST';
    this.#troubled(sentence);
    if (code === 'UNREACHABLE' || code === 'TIMEOUT') return this.#again(incident, sentence);
    return over('failed', sentence);
  }

  /** Again after a while that doubles, unless it has been tried for too long. */
  #again(incident: Incident, sentence: string): Step {
    if (Date.now() - incident.firstMs > this.#settings.keepMs)
      return over('given_up', `${sentence}; given up after ${this.#settings.keepMs / 1e3} s`);
    const attempts = this.#attempts.get(incident) ?? 0;
    this.#attempts.set(incident, attempts + 1);
    if (attempts === 0) this.#log.warn({ guest: incident.guest }, `${incident.guest}: ${sentence}`);
    const pauseMs = Math.min(500 * 2 ** attempts, longestRetryMs);
    return later(pauseMs * (0.8 + Math.random() * 0.4), sentence);
  }
}

const loud: ReadonlySet<Outcome> = new Set<Outcome>(['unconfirmed', 'failed', 'given_up', 'no_fencing']);

const lack = ({ fencing }: ClusterStatus, node: string): string =>
  fencing
    ? `no fencing device of the cluster is for it (stonith_admin --list ${node})`
    : 'fencing is disabled in the cluster (stonith-enabled)';

const over = (outcome: Outcome, sentence: string): Step => ({ kind: 'over', outcome, sentence });
const later = (afterMs: number, sentence: string): Step => ({ kind: 'later', afterMs, sentence });

/** Guest nodes and others that only run what the cluster tells them to: not the machine that we are on. */
const hasOwnClock = ({ nodes }: ClusterStatus, node: string): boolean =>
  nodes.some(({ name, type }) => name === node && type === 'remote');

const differs = (a: HistoryMark, b: HistoryMark): boolean =>
  a.lastCall !== b.lastCall || a.failCount !== b.failCount || a.lastFailure !== b.lastFailure;
