// SPDX-License-Identifier: Apache-2.0

import { onTestFinished } from 'vitest';

/** The messages of exceptions that nobody catches from now on, which would fail the test otherwise. */
export function uncaughtExceptions(): readonly string[] {
  const messages: string[] = [];
  const former = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (thrown) => messages.push(thrown.message));
  onTestFinished(() => {
    process.removeAllListeners('uncaughtException');
    for (const listener of former) process.on('uncaughtException', listener);
  });
  return messages;
}
