// SPDX-License-Identifier: Apache-2.0

/** Stable error codes: scripts, the API and exit statuses rely on them. */
export const errorCodes = {
  /** What was typed or configured is wrong. */
  USAGE: { exit: 2 },
  /** No guest, probe, image or file of that name. */
  NOT_FOUND: { exit: 1 },
  /** The service, the hypervisor or the guest's frontend cannot be reached. */
  UNREACHABLE: { exit: 3 },
  /** The other side did not answer within the time limit. */
  TIMEOUT: { exit: 3 },
  /** The session ended (guest gone, rebooted, channel closed) while something was under way. */
  SESSION_ENDED: { exit: 3 },
  /** The other side speaks another protocol version. */
  VERSION: { exit: 4 },
  /** The compatibility check, the policy or the guest's kernel refused it. */
  REFUSED: { exit: 4 },
  /** A probe image cannot be read or declares something impossible. */
  BAD_IMAGE: { exit: 4 },
  /** The guest sent bytes that are not the protocol. */
  PROTOCOL: { exit: 1 },
  /** A relay region or ring was found broken. */
  RELAY: { exit: 1 },
  /** The hypervisor refused or failed a command. */
  PROVIDER: { exit: 1 },
  /** Something on this machine is missing or failed (a package, a file, a program). */
  HOST: { exit: 1 },
} as const satisfies Record<string, { readonly exit: 0 | 1 | 2 | 3 | 4 }>;

export type ErrorCode = keyof typeof errorCodes;

export interface VesperErrorOptions {
  readonly cause?: unknown;
  /** Structured facts for machines: guest, probe, errno, … */
  readonly data?: Readonly<Record<string, unknown>>;
}

/**
 * The one error of the host side. The message says what happened, to which guest and probe, and what to do next.
 */
export class VesperError extends Error {
  override readonly name = 'VesperError';
  readonly code: ErrorCode;
  readonly data: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: VesperErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.data = options.data ?? {};
  }

  /** Exit status of the CLI for this error: 1 failed, 2 wrong usage, 3 not reachable, 4 refused. */
  get exitStatus(): number {
    return errorCodes[this.code].exit;
  }
}

/** The text of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
