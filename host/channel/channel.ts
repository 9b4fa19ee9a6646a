// SPDX-License-Identifier: Apache-2.0

/** A byte pipe to a guest's frontend, and what may happen to it. */
export interface Channel {
  /** For messages to people: `virtio-serial port org.vesper.probe.0 (/run/…)`. */
  readonly description: string;
  /** Hand over bytes; resolves when they left this process. Rejects with SESSION_ENDED once the channel is closed. */
  write(bytes: Uint8Array): Promise<void>;
  /** One reader; set before the first turn of the event loop after opening. */
  onData(handler: (chunk: Uint8Array) => void): void;
  /** Called once, with the reason, also after close(). */
  onClose(handler: (reason: string) => void): void;
  /** Idempotent. */
  close(): void;
}
