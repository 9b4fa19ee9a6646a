// SPDX-License-Identifier: Apache-2.0

/** The backend's session with one incarnation of one guest: its relay, and what looks after it. It ends once, with a reason. */

import type { Frame } from '../channel/frame.ts';
import { messageOf, VesperError } from '../error.ts';
import type { ProbeImage } from '../probe/declaration.ts';
import { errnoName } from '../probe/errno.ts';
import type { ProvidedRegion } from '../provider/provider.ts';
import type { Doorbell } from '../relay/doorbell.ts';
import type { RelayBatch, RelayReader, RelayStatistics } from '../relay/relay.ts';
import { ClockAlignment } from './clock.ts';
import { ControlLink, type Unsolicited } from './control-link.ts';
import { EventBatch } from './event-batch.ts';
import { freePages } from './guest-pages.ts';
import { type Established, establish, greet, type Hello } from './handshake.ts';
import type { Beating } from './heartbeat.ts';
import { hexOf, type Incarnation } from './incarnation.ts';
import { InlineFeed } from './inline-feed.ts';
import { Liveness, silentAfter } from './liveness.ts';
import { ProbeLoader, type SelfTestResult, type UnloadResult, unloadTimeLimitMs } from './probe-loader.ts';
import type { LoadedProbe } from './probe-state.ts';
import type { ProbeTable } from './probe-table.ts';
import type { PushResult } from './push.ts';
import { markRead, readRegionHeader } from './region-header.ts';
import { RegionNotices } from './region-notices.ts';
import type { RelayPlace } from './relay-backend.ts';
import { salvage } from './salvage.ts';
import type { SessionOptions } from './session-options.ts';
import { compareClocks } from './shared-clock.ts';

const firstPings = 5;
const helloPingLimitMs = 5_000;

/** How the reason of a session begins that ended with its channel, or with the guest's kernel. */
export const channelClosed = 'the channel closed';
export const kernelPanic = 'kernel panic';

export class GuestSession implements Beating {
  readonly hello: Hello;
  readonly incarnation: Incarnation;
  readonly place: RelayPlace;
  readonly resumed: boolean;
  readonly clock = new ClockAlignment();
  readonly #options: SessionOptions;
  readonly #link: ControlLink;
  readonly #epoch: bigint;
  readonly #batch: EventBatch;
  readonly #doorbell: Doorbell | undefined;
  readonly #feed: InlineFeed;
  readonly #liveness: Liveness;
  readonly #loader: ProbeLoader;
  #relay: RelayReader | undefined;
  #tampered: string | undefined;
  #ended = false;
  /** The place is kept until somebody says what became of the guest. */
  #unsettled = false;

  private constructor(
    options: SessionOptions,
    link: ControlLink,
    established: Established,
    feed: InlineFeed,
  ) {
    this.#feed = feed;
    this.#options = options;
    this.#link = link;
    this.hello = established.hello;
    this.place = established.place;
    this.resumed = established.resumed;
    this.#epoch = established.epoch;
    this.#doorbell = established.doorbell;
    this.incarnation = {
      guest: options.machine.name,
      uuid: options.machine.uuid,
      bootId: hexOf(established.hello.boot_id),
    };
    this.#loader = new ProbeLoader({
      link,
      incarnation: this.incarnation,
      chunkMax: established.hello.chunk_max,
      imageOf: options.imageOf,
      remembered: options.remembered,
      drain: () => this.drain(),
      onChange: () => this.#rememberNow(),
      onUncertain: (why) => this.end(why),
    });
    this.#batch = new EventBatch(this.incarnation, this.probes, this.clock);
    this.#liveness = new Liveness({
      link,
      clock: this.clock,
      periodMs: options.heartbeat.periodMs,
      heartbeatNs: () => this.heartbeatNs,
      compareClocks: () =>
        compareClocks({
          link,
          relay: established.place.backend === 'inline' ? undefined : this.#relay,
          epoch: established.epoch,
          features: established.hello.features,
          timeLimitMs: options.heartbeat.periodMs,
        }),
      onSilent: (why) => this.#fallSilent(why),
      onAnswer: () => options.events.health(false),
      onDisowned: () =>
        this.end('the frontend ended the session: nothing had been read from the channel for too long'),
    });
  }

  /** Opens channel, relay and clock; throws UNREACHABLE, TIMEOUT, VERSION, RELAY, PROVIDER or SESSION_ENDED. */
  static async open(options: SessionOptions): Promise<GuestSession> {
    const { machine, log } = options;
    const channel = await machine.openChannel();
    if (options.signal.aborted) {
      channel.close();
      throw new VesperError('SESSION_ENDED', `${machine.name}: the service stops`);
    }
    const notices = new RegionNotices(machine.name);
    const feed = new InlineFeed();
    let session: GuestSession | undefined;
    let half: Established | undefined;
    const link = new ControlLink(channel, machine.name, {
      unsolicited: (frame) => {
        if (frame.name === 'region') notices.note(frame.payload);
        else if (frame.name === 'records') {
          feed.take(frame);
          session?.wake();
        } else if (session !== undefined) session.#unsolicited(frame);
      },
      closed: (reason) => {
        notices.abandon(reason);
        session?.end(`${channelClosed}: ${reason}`);
      },
    });
    const abandon = () => link.close();
    options.signal.addEventListener('abort', abandon, { once: true });
    try {
      const hello = await greet(link, machine.name);
      const established = await establish({
        link,
        machine,
        hello,
        notices,
        regionBytes: options.regionBytes,
        backend: options.backend,
        feed,
        log,
        salvage: (region, left) => salvage(options, region, left),
        onRing: () => session?.wake(),
      });
      half = established;
      session = new GuestSession(options, link, established, feed);
      // Before the first record is read: which probe has which slot, and what time it is in the guest.
      await session.#loader.recover();
      for (let round = 0; round < firstPings; round += 1) await session.#liveness.ping(helloPingLimitMs);
      session.#openRelay(established);
      await session.#liveness.align();
      session.#start();
    } catch (thrown) {
      if (session !== undefined) session.#relay?.close();
      half?.doorbell?.close();
      half?.place.close();
      feed.close();
      link.close();
      throw thrown;
    } finally {
      options.signal.removeEventListener('abort', abandon);
    }
    log.info(
      { guest: machine.name, boot_id: session.incarnation.bootId, resumed: session.resumed },
      `${machine.name}: session is active`,
    );
    return session;
  }

  /** Of the rings; the frontend keeps it until they are laid out anew. */
  get epoch(): bigint {
    return this.#epoch;
  }

  get region(): ProvidedRegion {
    return this.place.region;
  }

  get channelDescription(): string {
    return this.#link.description;
  }

  /** What was delivered and lost in this epoch. */
  get statistics(): RelayStatistics {
    if (this.#relay === undefined) throw new Error('the relay is opened before a session is handed out');
    return this.#relay.statistics();
  }

  /** What the guest overwrote that it must not, of its region's header, directory or rings; undefined: nothing. */
  get tampered(): string | undefined {
    return this.#tampered;
  }

  /** Records of a probe or event that this service has no declaration of. */
  get undecodable(): number {
    return this.#batch.undecodable;
  }

  /** What the guest's kernel wrote last of its time where the host sees it; 0: nothing. */
  get heartbeatNs(): number {
    return this.#relay?.heartbeatNs() ?? 0;
  }

  /** Largest error of host times now, in µs; null before the clocks were aligned. */
  get clockErrorUs(): number | null {
    return this.clock.aligned ? this.clock.boundNs(Number(process.hrtime.bigint())) / 1e3 : null;
  }

  /** What is loaded, by slot. */
  get probes(): ProbeTable {
    return this.#loader.probes;
  }

  /** As ProbeLoader.push. */
  push(image: ProbeImage, args: string): Promise<PushResult> {
    return this.#loader.push(image, args);
  }

  unload(probe: LoadedProbe): Promise<UnloadResult> {
    return this.#loader.unload(probe);
  }

  selfTest(probe: LoadedProbe): Promise<SelfTestResult> {
    return this.#loader.selfTest(probe);
  }

  /** Ask the frontend anew what is loaded: a push of a service that died may have come to its end. */
  refreshProbes(): Promise<void> {
    return this.#loader.recover();
  }

  /** What the frontend itself says of its probes and counters. */
  status(): Promise<Frame<'status_report'>> {
    return this.#link.request('status', {}, 'status_report');
  }

  /** The guest rang: there is something to read. */
  wake(): void {
    this.#relay?.wake();
  }

  /** Read and deliver all that is in the rings now. */
  drain(): void {
    this.#relay?.drain();
  }

  /** Stops the relay in the guest: afterwards it no longer touches the region. */
  async deactivate(): Promise<void> {
    const { payload } = await this.#link.request('deactivate', {}, 'deactivated', {
      timeLimitMs: unloadTimeLimitMs,
    });
    if (payload.error !== 0) {
      throw new VesperError(
        'RELAY',
        `${this.incarnation.guest}: the frontend could not stop the relay: ${errnoName(payload.error)}`,
      );
    }
    if (this.place.backend === 'guest-pages') {
      this.#relay?.drain();
      this.#relay?.close();
      await freePages(this.#link);
    }
    this.end('deactivated');
  }

  /**
   * Idempotent. What the guest published is read first. Records that it is about to publish are for the next reader of the
   * epoch, which would deliver them once more; where the guest is `over` there is none, and they are read, too.
   */
  end(reason: string, { over = false } = {}): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#liveness.stop();
    this.#options.heartbeat.leave(this);
    this.#relay?.drain();
    const { panicMessage } = this.#batch;
    const why = panicMessage === undefined ? reason : `${kernelPanic}: ${panicMessage}`;
    const last = over || panicMessage !== undefined;
    if (last) this.#relay?.drainBeyond();
    this.#relay?.close();
    if (last) this.#lastly(() => markRead(this.region));
    // Of a guest whose channel closed nobody knows yet: see settle().
    if (last || !reason.startsWith(channelClosed)) this.place.close();
    else this.#unsettled = true;
    this.#feed.close();
    this.#doorbell?.close();
    this.#link.close();
    this.#options.events.ended(why);
  }

  /**
   * After the channel closed: whether the guest was over by then, so that what it never published can be read; false where it
   * lives, or somebody is about to look. Idempotent.
   */
  settle(over: boolean): void {
    if (!this.#unsettled) return;
    this.#unsettled = false;
    if (over) {
      this.#lastly(() => {
        const left = readRegionHeader(this.region);
        if (left?.epoch !== this.#epoch) return;
        salvage(this.#options, this.region, left);
        markRead(this.region);
      });
    }
    this.place.close();
  }

  /** With the region of a guest that is over: whatever is wrong with it is told, and the session's end goes on. */
  #lastly(work: () => void): void {
    const { guest } = this.incarnation;
    try {
      work();
    } catch (thrown) {
      const { log } = this.#options;
      log.warn(
        { guest, err: thrown },
        `${guest}: its region cannot be read to the end: ${messageOf(thrown)}`,
      );
    }
  }

  #openRelay({ place: { region }, layout, epoch }: Established): void {
    const { relays, log, events } = this.#options;
    const { guest } = this.incarnation;
    this.#relay = relays.open({
      path: region.path,
      ram: region.ram,
      layout,
      epoch,
      token: region.token,
      onBatch: (batch) => this.#deliver(batch),
      onRelease: this.place.backend === 'inline' ? () => this.#feed.released() : undefined,
      onQuarantine: ({ cpu, critical, fault }) => {
        const ring = critical ? 'critical' : 'other';
        log.error(
          { guest, cpu, ring, fault },
          `${guest}: the ${ring} ring of CPU ${cpu} is broken (${fault}): no longer read`,
        );
        events.quarantined();
      },
      onOverwrite: ({ cpu, critical }) => {
        const ring = critical ? 'critical' : 'other';
        const what = `the host's half of the ${ring} ring of CPU ${cpu}`;
        log.error({ guest, cpu, ring }, `${guest}: the guest overwrote ${what}: written anew`);
        this.#tampered ??= what;
        events.quarantined();
      },
      onHandlerError: (thrown) =>
        log.error({ guest, err: thrown }, `${guest}: a batch was not handled: ${messageOf(thrown)}`),
    });
  }

  #start(): void {
    if (this.#ended) {
      const { guest } = this.incarnation;
      throw new VesperError('SESSION_ENDED', `${guest}: the session ended while it was being opened`);
    }
    this.#rememberNow();
    this.#relay?.start();
    this.#options.heartbeat.join(this);
  }

  #deliver(batch: RelayBatch): void {
    this.#liveness.flowed();
    this.#options.events.batch(this.#batch.bind(batch));
    // The guest rang for its last record. Not from within the relay that delivers it.
    if (this.#batch.panicMessage !== undefined) setImmediate(() => this.end(kernelPanic, { over: true }));
  }

  /** The machine ran on after a pause: its clock stood still meanwhile. */
  machineResumed(): void {
    this.clock.doubt();
    this.beat(true);
  }

  /** Once a period: see that nothing was missed or overwritten, and whether the guest lives. */
  beat(ask: boolean): void {
    // A doorbell may have got lost with a channel that was cut in the middle of it.
    this.#relay?.look();
    this.#verify();
    // Nobody there to answer, and what nobody reads would fill the channel.
    if (this.#ended || this.#options.machine.state === 'paused') return;
    this.#liveness.check(ask);
  }

  /** The guest may write into header and directory too; nothing is read by them, but that it does so is worth knowing. */
  #verify(): void {
    if (this.#tampered !== undefined) return;
    const difference = this.#relay?.verify()[0];
    if (difference === undefined) return;
    this.#tampered = `the header of its region: ${difference}`;
    const { guest } = this.incarnation;
    this.#options.log.error({ guest }, `${guest}: the header of the region was overwritten: ${difference}`);
    this.#options.events.quarantined();
  }

  #fallSilent(why: string): void {
    // A kernel that panicked says so in its last record, and nowhere else.
    this.drain();
    const { guest } = this.incarnation;
    if (this.#batch.panicMessage !== undefined) {
      this.end(kernelPanic, { over: true });
      return;
    }
    this.#options.log.warn({ guest }, `${guest}: ${silentAfter} heartbeats without an answer: ${why}`);
    this.#options.events.health(true);
  }

  #unsolicited(frame: Unsolicited): void {
    switch (frame.name) {
      case 'doorbell':
        if (frame.payload.epoch === this.#epoch) this.wake();
        break;
      case 'revoke':
        if (frame.payload.epoch === this.#epoch) this.#revoke();
        break;
      case 'error':
        this.#options.log.warn(
          { guest: this.incarnation.guest, errno: frame.payload.error },
          `${this.incarnation.guest}: the frontend reports: ${frame.tail}`,
        );
        break;
      case 'region':
      case 'records':
        break;
    }
  }

  /** The frontend goes away, or its device does: let go of the region first, then say so. */
  #revoke(): void {
    this.#relay?.drain();
    this.#relay?.close();
    const told = this.#link.send('revoked', { epoch: this.#epoch });
    void told
      .catch(() => undefined)
      .finally(() => this.end('the frontend was unloaded or its region unplugged'));
  }

  #rememberNow(): void {
    this.#options.events.remember({
      bootId: this.incarnation.bootId,
      epoch: String(this.#epoch),
      probes: this.#loader.remembered(),
    });
  }
}
