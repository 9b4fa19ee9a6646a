// SPDX-License-Identifier: Apache-2.0

/** Waits that double up to a limit, each spread by a fifth so that many guests do not come back at the same moment. */
export class Backoff {
  readonly #firstMs: number;
  readonly #mostMs: number;
  #currentMs: number;

  constructor(options: { readonly firstMs: number; readonly mostMs: number }) {
    this.#firstMs = options.firstMs;
    this.#mostMs = options.mostMs;
    this.#currentMs = options.firstMs;
  }

  nextMs(): number {
    const waitMs = this.#currentMs * (0.8 + Math.random() * 0.4);
    this.#currentMs = Math.min(this.#mostMs, this.#currentMs * 2);
    return waitMs;
  }

  reset(): void {
    this.#currentMs = this.#firstMs;
  }
}
