// SPDX-License-Identifier: Apache-2.0

/**
 * One guest under the service: keeps a session with its frontend while its machine runs, makes the loaded probes those that
 * are wanted, and always knows why things are as they are.
 */

import { messageOf, VesperError } from '../error.ts';
import { channelClosed, GuestSession, kernelPanic } from '../guest/session.ts';
import type { Remembered } from '../guest/session-options.ts';
import type { LifecycleEvent, Machine } from '../provider/provider.ts';
import { Backoff } from './backoff.ts';
import { type Failure, GuestProbes } from './guest-probes.ts';
import type { AttachOptions, GuestServices } from './guest-services.ts';
import type { GuestState, ProbeResult } from './results.ts';
import type { WantedProbe } from './wanted.ts';

/** What a session that is over delivered and lost, added up over the incarnations of the guest. */
export interface PastSession {
  readonly bootId: string;
  readonly reason: string;
  readonly delivered: number;
  readonly lost: number;
  readonly endedAtMs: number;
}

const historyLength = 16;
/** A machine that dies closes its channel first; the hypervisor's word for it follows. */
const explanationWithinMs = 5_000;

export class ManagedGuest {
  readonly machine: Machine;
  readonly #services: GuestServices;
  readonly #backoff = new Backoff({ firstMs: 250, mostMs: 15_000 });
  readonly #past: PastSession[] = [];
  readonly #probes: GuestProbes;
  readonly #closing = new AbortController();
  #state: GuestState;
  #reason: string;
  #session: GuestSession | undefined;
  /** The last one, until it is known whether its guest was over. */
  #unsettled: GuestSession | undefined;
  #connecting: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  /** What a machine that stopped left behind is being removed. */
  #cleaning: Promise<void> | undefined;
  #silent = false;
  /** There was no session since nothing of VESPER's was in the guest: nothing of what was plugged in since can be in use. */
  #neverReached = false;
  /** It is being given back, as nobody wants anything of it. */
  #leaving: Promise<void> | undefined;
  /** Commands under way that want a session. */
  #attaching = 0;
  /** How the guest's kernel ended, until it boots again. */
  #died: string | undefined;
  readonly #watchers = new Set<() => void>();
  readonly #lifecycleWatchers = new Set<(event: LifecycleEvent) => void>();

  constructor(machine: Machine, services: GuestServices) {
    this.machine = machine;
    this.#services = services;
    this.#probes = new GuestProbes(machine, services, () => this.#assess());
    this.#state = machine.state === 'stopped' ? 'stopped' : 'running';
    this.#reason = machine.state === 'running' ? 'found' : machine.state;
  }

  get state(): GuestState {
    return this.#state;
  }

  get reason(): string {
    return this.#reason;
  }

  /** Its kernel panicked, and it has not booted since. */
  get kernelDied(): boolean {
    return this.#died !== undefined;
  }

  get session(): GuestSession | undefined {
    return this.#session;
  }

  /** Newest last. */
  get past(): readonly PastSession[] {
    return this.#past;
  }

  get failures(): ReadonlyMap<string, Failure> {
    return this.#probes.failures;
  }

  get wanted(): readonly WantedProbe[] {
    return this.#probes.wanted;
  }

  /** Called after each change of state; returns what takes the watcher off. */
  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  /** Called with what the hypervisor tells, once the guest has heard it. */
  watchLifecycle(told: (event: LifecycleEvent) => void): void {
    this.#lifecycleWatchers.add(told);
  }

  /** Begin, or begin at once again, to bring the session up; `asked`: also where no probe is wanted yet. */
  connect({ asked = false } = {}): void {
    if (this.#closed || this.#session !== undefined || this.#connecting !== undefined) return;
    if (this.machine.state !== 'running') return;
    if (!asked && this.#unwanted && !this.#mayHaveProbes) {
      this.#become('running', `no probe is wanted on it: vesper attach ${this.machine.name} PROBE`);
      return;
    }
    clearTimeout(this.#retry);
    if (!this.#mayHaveProbes) this.#neverReached = true;
    this.#connecting = this.#open().finally(() => {
      this.#connecting = undefined;
      if (this.#session !== undefined) return;
      this.#scheduleRetry();
      void this.#leaveUnwanted();
    });
  }

  lifecycle(event: Exclude<LifecycleEvent, { kind: 'removed' }>): void {
    switch (event.kind) {
      case 'started':
        this.#begin('started');
        break;
      case 'resumed':
        if (this.#session === undefined) this.#begin('resumed');
        else this.#session.machineResumed();
        this.#assess();
        break;
      case 'paused':
        this.#become(this.#session === undefined ? 'running' : 'degraded', 'the machine is paused');
        break;
      case 'rebooted':
        this.#endSession('the guest rebooted');
        this.#begin('the guest rebooted');
        break;
      case 'panicked':
        this.#endSession(kernelPanic);
        this.#died ??= kernelPanic;
        this.#become('lost', this.#died);
        break;
      case 'stopped':
        this.#endSession(event.reason, event.elsewhere !== true);
        clearTimeout(this.#retry);
        this.#become('stopped', event.reason);
        // The region was read to its end: what the machine leaves behind can go.
        this.#cleaning = this.machine
          .release()
          .catch((thrown) => this.#services.log.warn(`${this.machine.name}: ${messageOf(thrown)}`));
        break;
    }
    for (const told of this.#lifecycleWatchers) told(event);
  }

  /** Wait until a session is active; throws with the reason where none comes about in time. */
  async active(timeLimitMs: number): Promise<GuestSession> {
    this.#refusePaused();
    if (this.#leaving !== undefined) {
      await this.#leaving;
      // It may have been left by who had just opened the session.
      await this.#connecting;
    }
    this.connect({ asked: true });
    if (this.#session === undefined) await this.#settled(timeLimitMs);
    if (this.#session !== undefined) return this.#session;
    const { name } = this.machine;
    const reason = this.#reason.startsWith(`${name}: `) ? this.#reason.slice(name.length + 2) : this.#reason;
    throw new VesperError('UNREACHABLE', `${name} is ${this.#state}: ${reason}`, {
      data: { guest: name, state: this.#state },
    });
  }

  /** As GuestProbes.attach; waits for a session first, unless a probe is asked for that no guest could get. */
  async attach(
    references: readonly string[],
    assignments: readonly string[],
    options: AttachOptions,
  ): Promise<readonly ProbeResult[]> {
    this.#attaching += 1;
    try {
      await this.#services.images.refuseUnknown(references);
      const session = await this.active(this.#services.config.heartbeatMs * 20);
      return await this.#probes.attach(session, references, assignments, options);
    } finally {
      this.#attaching -= 1;
      await this.#leaveUnwanted();
    }
  }

  /** What `look` sees once there is a session, or an attempt at one has failed; the guest is then left as it was before. */
  async reach<T>(look: () => T): Promise<T> {
    this.#attaching += 1;
    try {
      await this.active(this.#services.config.heartbeatMs * 20).catch((thrown) => {
        if (!(thrown instanceof VesperError) || thrown.code !== 'UNREACHABLE') throw thrown;
      });
      return look();
    } finally {
      this.#attaching -= 1;
      await this.#leaveUnwanted();
    }
  }

  /** The configuration changed. */
  async reconfigured(): Promise<void> {
    await this.#probes.reconfigured();
    await this.#leaveUnwanted();
    this.connect();
  }

  /** Make a probe unwanted and unload it where it is loaded. */
  async detach(name: string, by: string): Promise<ProbeResult> {
    this.#refusePaused();
    const result = await this.#probes.detach(name, by);
    await this.#leaveUnwanted();
    return result;
  }

  /**
   * Leave the guest. Without `release` it is left as it is, probes armed, for the next service; with it the relay stops and
   * everything that was plugged is unplugged.
   */
  async close(options: { readonly release: boolean }): Promise<void> {
    if (!options.release) this.#session?.end('the service stops');
    this.#closing.abort();
    this.#settle(false);
    clearTimeout(this.#retry);
    await this.#connecting?.catch(() => undefined);
    if (options.release) {
      await this.#release();
    }
    await this.#cleaning;
  }

  /** Nobody wants anything of it, and it is to be left alone then. */
  get #unwanted(): boolean {
    return this.machine.onDemand === true && this.#attaching === 0 && this.wanted.length === 0;
  }

  /** Loaded by a service before this one, or by that of another host. */
  get #mayHaveProbes(): boolean {
    return (
      this.machine.inUse === true || (this.#services.memory.load(this.machine.uuid)?.probes.length ?? 0) > 0
    );
  }

  /** Gives back a guest of which nobody wants anything any more, or that could not be reached for who wanted something. */
  async #leaveUnwanted(): Promise<void> {
    if (this.#closed || !this.#unwanted) return;
    const session = this.#session;
    if (session === undefined && (!this.#neverReached || this.#connecting !== undefined)) return;
    if (session !== undefined && session.probes.all().length > 0) return; // one could not be unloaded yet
    this.#neverReached = false;
    this.#leaving ??= this.#release()
      .catch((thrown) => this.#services.log.warn(`${this.machine.name}: ${messageOf(thrown)}`))
      .finally(() => {
        this.#leaving = undefined;
      });
    await this.#leaving;
    if (session === undefined) this.connect();
  }

  async #release(): Promise<void> {
    await this.#leave().catch((thrown) =>
      this.#services.log.warn(`${this.machine.name}: ${messageOf(thrown)}`),
    );
    this.#session?.end('released');
    await this.machine.release();
  }

  /** Unload everything and stop the relay. */
  async #leave(): Promise<void> {
    const session = this.#session;
    if (session === undefined) return;
    for (const probe of session.probes.all()) await this.#probes.detach(probe.name, 'release');
    await session.deactivate();
  }

  async #open(): Promise<void> {
    const { config, relays, heartbeat, images, memory, log, publish } = this.#services;
    const { machine } = this;
    try {
      let session: GuestSession | undefined;
      let endedEarly: string | undefined;
      await images.readCatalogue();
      this.#settle(false);
      session = await GuestSession.open({
        machine,
        relays,
        log,
        regionBytes: config.regionBytes,
        heartbeat,
        backend: config.relayBackend,
        imageOf: (sha256) => images.bySha256(sha256),
        remembered: memory.load(machine.uuid),
        events: {
          batch: publish,
          quarantined: () => this.#assess(),
          health: (silent) => this.#health(silent),
          remember: (state: Remembered) => memory.save(machine.uuid, state),
          ended: (reason) => {
            if (session === undefined) endedEarly = reason;
            else this.#sessionEnded(session, reason);
          },
        },
        signal: this.#closing.signal,
      });
      this.#session = session;
      this.#neverReached = false;
      this.#silent = false;
      this.#died = undefined;
      if (endedEarly !== undefined) return this.#sessionEnded(session, endedEarly);
      if (this.#closed) return session.end('the service stops');
      this.#become('active', session.resumed ? 'resumed' : 'activated');
      await this.#probes.enter(session);
      this.#backoff.reset();
      await this.#leaveUnwanted();
    } catch (thrown) {
      if (this.#closed || this.machine.state !== 'running') return;
      const reached = thrown instanceof VesperError && (thrown.code === 'RELAY' || thrown.code === 'VERSION');
      if (this.#died !== undefined) this.#become('lost', this.#died);
      else this.#become(reached ? 'reachable' : 'running', messageOf(thrown));
    }
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** The machine runs, or runs anew. */
  #begin(reason: string): void {
    this.#backoff.reset();
    this.#died = undefined;
    this.#become('running', reason);
    this.connect();
  }

  /** Nobody in a paused machine answers. */
  #refusePaused(): void {
    if (this.machine.state !== 'paused') return;
    throw new VesperError('UNREACHABLE', `${this.machine.name} is paused: resume the machine, then repeat`, {
      data: { guest: this.machine.name },
    });
  }

  #scheduleRetry(): void {
    if (this.#closed || this.#connecting !== undefined || this.machine.state !== 'running') return;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.connect(), this.#backoff.nextMs());
  }

  #health(silent: boolean): void {
    this.#silent = silent;
    this.#assess();
  }

  #assess(): void {
    if (this.#session === undefined) return;
    if (this.machine.state === 'paused') {
      this.#become('degraded', 'the machine is paused');
      return;
    }
    if (this.#silent) {
      this.#become('lost', 'the frontend does not answer heartbeats; what it writes is still read');
      return;
    }
    const broken = this.#session.statistics.quarantined;
    const [failed] = this.#probes.failures;
    const { tampered } = this.#session;
    if (broken > 0)
      this.#become('degraded', `${broken} rings are quarantined: what the guest wrote there is broken`);
    else if (tampered !== undefined) this.#become('degraded', `the guest overwrote ${tampered}`);
    else if (failed !== undefined) this.#become('degraded', failureText(failed[1]));
    else this.#become('active', this.#session.resumed ? 'resumed' : 'activated');
  }

  /** End the session for a reason the hypervisor gave; where the closed channel ended it just now, that was why. */
  #endSession(reason: string, over = true): void {
    const last = this.#past.at(-1);
    this.#settle(over);
    if (this.#session !== undefined) this.#session.end(reason, { over });
    else if (
      last?.reason.startsWith(channelClosed) &&
      performance.now() - last.endedAtMs < explanationWithinMs
    ) {
      this.#past[this.#past.length - 1] = { ...last, reason };
    }
  }

  #settle(over: boolean): void {
    this.#unsettled?.settle(over);
    this.#unsettled = undefined;
  }

  #sessionEnded(session: GuestSession | undefined, reason: string): void {
    if (session === undefined || this.#session !== session) return;
    const { delivered, lost } = session.statistics;
    this.#past.push({
      bootId: session.incarnation.bootId,
      reason,
      delivered,
      lost,
      endedAtMs: performance.now(),
    });
    if (this.#past.length > historyLength) this.#past.shift();
    this.#session = undefined;
    this.#unsettled = session;
    this.#services.log.info(
      { guest: this.machine.name, delivered, lost },
      `${this.machine.name}: session ended: ${reason}`,
    );
    if (reason.startsWith(kernelPanic)) this.#died = reason;
    this.#probes.leave();
    this.#become('lost', reason);
    this.#scheduleRetry();
  }

  #become(state: GuestState, reason: string): void {
    if (this.#state === state && this.#reason === reason) return;
    this.#state = state;
    this.#reason = reason;
    for (const changed of this.#watchers) changed();
  }

  /** Resolves when there is a session, or the first attempt has failed, or time is up. */
  #settled(timeLimitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        unwatch();
        resolve();
      };
      const unwatch = this.watch(() => {
        if (this.#session !== undefined) finish();
      });
      const timer = setTimeout(finish, timeLimitMs);
      void this.#connecting?.then(finish);
    });
  }
}

function failureText({ message, attempts, nextAt }: Failure): string {
  if (nextAt === undefined) return message;
  const tried = attempts === 1 ? 'once' : `${attempts} times`;
  return `${message} (tried ${tried}, again at ${nextAt.toISOString().slice(11, 19)} UTC)`;
}
