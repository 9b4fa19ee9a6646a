// SPDX-License-Identifier: Apache-2.0

/** Request and reply over one channel: every request has a time limit, every reply is matched by its id. */

import type { Channel } from '../channel/channel.ts';
import { encodeFrame, type Frame, FrameParser, type Refusal, type TailOf } from '../channel/frame.ts';
import { VesperError } from '../error.ts';
import { type MessageName, type PayloadOf, protocolVersion } from '../wire/message.ts';

/** Frames the guest sends without being asked. */
export type Unsolicited = Frame<'region' | 'doorbell' | 'revoke' | 'records' | 'error'>;

export interface ControlLinkEvents {
  unsolicited(frame: Unsolicited): void;
  /** Once; nothing follows. */
  closed(reason: string): void;
}

interface Pending {
  readonly name: MessageName;
  readonly expected: MessageName;
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: VesperError) => void;
  readonly timer: NodeJS.Timeout;
}

const defaultTimeLimitMs = 5_000;

export class ControlLink {
  readonly #channel: Channel;
  readonly #guest: string;
  readonly #events: ControlLinkEvents;
  readonly #parser = new FrameParser({ onRefusal: (refusal) => this.#refused(refusal) });
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #closedBecause: string | undefined;
  /** Replies that nobody waited for (any more): late ones after a time-out, or made up. */
  strayReplies = 0;

  constructor(channel: Channel, guest: string, events: ControlLinkEvents) {
    this.#channel = channel;
    this.#guest = guest;
    this.#events = events;
    channel.onData((chunk) => this.#receive(chunk));
    channel.onClose((reason) => this.#end(reason));
  }

  get description(): string {
    return this.#channel.description;
  }

  /** Frames and bytes of the guest that were not the protocol. */
  get refused(): { readonly frames: number; readonly bytes: number } {
    return { frames: this.#parser.badFrames, bytes: this.#parser.badBytes };
  }

  /**
   * Send a request and wait for its reply. Throws TIMEOUT, SESSION_ENDED, VERSION (the frontend speaks another protocol
   * version) or PROTOCOL (it refused the frame).
   */
  async request<Q extends MessageName, R extends MessageName>(
    name: Q,
    payload: Partial<PayloadOf<Q>>,
    reply: R,
    options: { readonly timeLimitMs?: number; readonly tail?: TailOf<Q> } = {},
  ): Promise<Frame<R>> {
    if (this.#closedBecause !== undefined) throw this.#ended(this.#closedBecause);
    const id = this.#nextId;
    this.#nextId = id >= 0x7fff_ffff ? 1 : id + 1;
    const timeLimitMs = options.timeLimitMs ?? defaultTimeLimitMs;
    const answered = new Promise<Frame>((resolve, reject) => {
      const timer = setTimeout(() => {
        // The answer may stand behind the half of a frame whose sender was reset in the middle of it.
        this.#dispatch(this.#parser.resync());
        if (!this.#pending.delete(id)) return;
        reject(
          new VesperError(
            'TIMEOUT',
            `${this.#guest}: the frontend did not answer ${name} within ${timeLimitMs} ms`,
            {
              data: { guest: this.#guest, request: name, timeLimitMs },
            },
          ),
        );
      }, timeLimitMs);
      this.#pending.set(id, { name, expected: reply, resolve, reject, timer });
    });
    // The write may fail or stall after the reply's own time limit: both ends are watched, the first one decides.
    const written = this.#channel.write(encodeFrame(name, id, payload, options.tail));
    const frame = await Promise.race([answered, written.then(() => answered)]).finally(() =>
      this.#forget(id),
    );
    return frame as Frame<R>;
  }

  /** Send a message that has no reply. */
  send<N extends MessageName>(name: N, payload: Partial<PayloadOf<N>>, tail?: TailOf<N>): Promise<void> {
    if (this.#closedBecause !== undefined) return Promise.reject(this.#ended(this.#closedBecause));
    return this.#channel.write(encodeFrame(name, 0, payload, tail));
  }

  /** Fail every request that waits for its reply. */
  giveUp(why: string): void {
    for (const [id, { name, reject }] of this.#pending) {
      this.#forget(id);
      const message = `${this.#guest}: the frontend stopped answering in the middle of ${name}: ${why}`;
      reject(new VesperError('TIMEOUT', message, { data: { guest: this.#guest, request: name } }));
    }
  }

  close(): void {
    this.#channel.close();
    this.#end('closed by the service');
  }

  #receive(chunk: Uint8Array): void {
    this.#dispatch(this.#parser.push(chunk));
  }

  #dispatch(frames: readonly Frame[]): void {
    for (const frame of frames) {
      if (this.#closedBecause !== undefined) return;
      const pending = frame.requestId === 0 ? undefined : this.#pending.get(frame.requestId);
      if (pending !== undefined) this.#settle(frame, pending);
      else if (frame.requestId === 0 && isUnsolicited(frame)) this.#events.unsolicited(frame);
      else this.strayReplies += 1;
    }
  }

  #settle(frame: Frame, pending: Pending): void {
    this.#forget(frame.requestId);
    if (frame.name === pending.expected) pending.resolve(frame);
    else pending.reject(this.#refusal(frame, pending.expected));
  }

  #refusal(frame: Frame, expected: MessageName): VesperError {
    if (frame.name !== 'error') {
      return new VesperError(
        'PROTOCOL',
        `${this.#guest}: the frontend answered ${frame.name} where ${expected} was due`,
        {
          data: { guest: this.#guest },
        },
      );
    }
    const { min_version: low, max_version: high, error } = frame.payload;
    if (low > protocolVersion || high < protocolVersion) return this.#otherVersion(low, high);
    return new VesperError(
      'PROTOCOL',
      `${this.#guest}: the frontend refused the request: ${frame.tail} (${error})`,
      {
        data: { guest: this.#guest, errno: error },
      },
    );
  }

  #otherVersion(low: number, high: number): VesperError {
    const spoken = low === high ? `${low}` : `${low} to ${high}`;
    return new VesperError(
      'VERSION',
      `${this.#guest}: the frontend speaks protocol version ${spoken}, this service ${protocolVersion}: install the frontend that came with this service`,
      { data: { guest: this.#guest, low, high, own: protocolVersion } },
    );
  }

  /** A well-formed frame that cannot be used: where it answers a request, that request has failed. */
  #refused(refusal: Refusal): void {
    const pending = this.#pending.get(refusal.requestId);
    if (pending === undefined) return;
    this.#forget(refusal.requestId);
    pending.reject(
      refusal.why === 'version'
        ? this.#otherVersion(refusal.version, refusal.version)
        : new VesperError('PROTOCOL', `${this.#guest}: the frontend sent ${refusal.message}`, {
            data: { guest: this.#guest },
          }),
    );
  }

  #forget(id: number): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    clearTimeout(pending.timer);
    this.#pending.delete(id);
  }

  #ended(reason: string): VesperError {
    return new VesperError('SESSION_ENDED', `${this.#guest}: the session ended: ${reason}`, {
      data: { guest: this.#guest },
    });
  }

  #end(reason: string): void {
    if (this.#closedBecause !== undefined) return;
    this.#closedBecause = reason;
    for (const [id, pending] of this.#pending) {
      this.#forget(id);
      pending.reject(this.#ended(reason));
    }
    this.#events.closed(reason);
  }
}

const unsolicited: ReadonlySet<MessageName> = new Set<Unsolicited['name']>([
  'region',
  'doorbell',
  'revoke',
  'records',
  'error',
]);

function isUnsolicited(frame: Frame): frame is Unsolicited {
  return unsolicited.has(frame.name);
}
