// SPDX-License-Identifier: Apache-2.0

/** The host's end of a doorbell: a named pipe that gets bytes when the guest writes to the register of its region's device. */

import { constants, open } from 'node:fs';
import { Socket } from 'node:net';
import { promisify } from 'node:util';

const openFile = promisify(open);
/** A ring is 8 bytes, and all that wait are answered at once. */
const readBytes = 4096;
/**
 * Not listened to for so long after a ring. Shorter than a relay stays awake after its last record, so that no guest waits that
 * rings when it is asked to; one that rings all the time is heard so often and no oftener.
 */
const restMs = 3;

export class Doorbell {
  readonly #socket: Socket;
  readonly #onRing: () => void;
  #rest: NodeJS.Timeout | undefined;

  /** Rings that nobody heard yet are in the pipe. Throws as `fs.open` does. */
  static async open(path: string, onRing: () => void): Promise<Doorbell> {
    // Written to by nobody here; but a pipe without a writer is at its end.
    const flags = constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW;
    return new Doorbell(await openFile(path, flags), onRing);
  }

  private constructor(fd: number, onRing: () => void) {
    this.#onRing = onRing;
    this.#socket = new Socket({
      fd,
      readable: true,
      writable: false,
      onread: { buffer: Buffer.alloc(readBytes), callback: () => this.#rang() },
    });
    this.#socket.on('error', () => this.close()); // what is written is still found by the look at each heartbeat
    this.#socket.resume();
  }

  close(): void {
    clearTimeout(this.#rest);
    this.#socket.destroy();
  }

  /** False: read no further now. */
  #rang(): boolean {
    this.#rest = setTimeout(() => this.#socket.resume(), restMs);
    this.#onRing();
    return false;
  }
}
