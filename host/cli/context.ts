// SPDX-License-Identifier: Apache-2.0

import type { Command } from 'commander';
import { ApiClient } from '../api/client.ts';
import { apiSocketPath, defaultRunDirectory } from '../service/config.ts';

/** The running service that the global options name. */
export function apiOf(command: Command): ApiClient {
  const { runDir } = command.optsWithGlobals<{ runDir?: string }>();
  return new ApiClient(apiSocketPath(runDir ?? defaultRunDirectory()));
}

/** For options that may be given more than once. */
export const collect = (value: string, before: readonly string[]): readonly string[] => [...before, value];

export const example = (lines: string): string => `\nExample:\n${lines.replace(/^/gm, '  ')}\n`;
