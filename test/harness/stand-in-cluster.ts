// SPDX-License-Identifier: Apache-2.0

/**
 * Stands in for a cluster's commands: programs that say what a real cluster said (test/fixtures/pacemaker-2.1.5-recorded), whose `web`
 * runs on node1 and is started anew when it is failed. For what a real one does not do when a test wants it.
 */

import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CommandOptions } from '../../host/sink/pacemaker/commands.ts';

const recorded = join(import.meta.dirname, '../fixtures/pacemaker-2.1.5-recorded');
export const recordedXml = (name: string): string => readFileSync(join(recorded, `${name}.xml`), 'utf8');

export class StandInCluster implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'vesper-test-'));

  constructor() {
    this.say('running');
    writeFileSync(join(this.directory, 'failed'), recordedXml('failed'));
    const programs = {
      crm_mon: 'cat "$here/status"',
      cibadmin: `cat ${recorded}/cib.xml`,
      crm_node: 'echo node1',
      crm_resource: `date +%s%3N >>"$here/times"; echo "$*" >>"$here/calls"; [ -e "$here/idle" ] && exit; sed "s/Sat Nov 21 16:40:23 2026/$(LC_ALL=C date '+%a %b %e %T %Y')/" "$here/failed" >"$here/status.new" && mv "$here/status.new" "$here/status"`,
      stonith_admin: `case $1 in
--list) cat ${recorded}/fence-devices.xml ;;
--history) cat "$here/fenced" 2>/dev/null || cat ${recorded}/fence-no-history.xml ;;
*) echo "$*" >>"$here/calls"; [ -e "$here/idle" ] && { echo "Couldn't fence" >&2; exit 1; }; sed "s/2026-11-30 23:40:38Z/$(date -u '+%F %TZ')/" ${recorded}/fence-history.xml >"$here/fenced"; while [ -e "$here/held" ]; do sleep 0.05; done ;;
esac`,
      crm_attribute: 'echo "$*" >>"$here/attributes"',
    };
    for (const [name, action] of Object.entries(programs)) {
      const file = join(this.directory, name);
      const trouble = '[ ! -e "$here/trouble" ] || . "$here/trouble"';
      writeFileSync(file, `#!/bin/sh\nhere=${this.directory}\n${trouble}\n${action}\n`);
      chmodSync(file, 0o755);
    }
  }

  /** What crm_mon says from now on. */
  say(name: string): void {
    this.sayXml(recordedXml(name));
  }

  sayXml(xml: string): void {
    writeFileSync(join(this.directory, 'status'), xml);
  }

  /** `web` runs on a guest node from now on, which keeps its own time: when it says that `web` was last started. */
  set startedByGuest(time: string) {
    for (const name of ['running', 'failed']) {
      const xml = recordedXml(name)
        .replace(/(<node name="node1" .*?type=)"member"/, '$1"remote"')
        .replace(/(id="web" .*?task="start" .*?last-rc-change=)"[^"]*"/s, `$1"${time}"`);
      writeFileSync(join(this.directory, name === 'running' ? 'status' : name), xml);
    }
  }

  /** What every command does first from now on, in the language of the shell; empty: nothing. */
  set trouble(script: string) {
    const file = join(this.directory, 'trouble');
    if (script === '') rmSync(file, { force: true });
    else writeFileSync(file, script);
  }

  /** It says yes, and does nothing; of fencing it says that it failed. */
  set idle(idle: boolean) {
    if (idle) writeFileSync(join(this.directory, 'idle'), '');
    else rmSync(join(this.directory, 'idle'), { force: true });
  }

  /** What fences does not come back, though it was done. */
  set held(held: boolean) {
    if (held) writeFileSync(join(this.directory, 'held'), '');
    else rmSync(join(this.directory, 'held'), { force: true });
  }

  /** Arguments of the calls of crm_resource, and of stonith_admin where it fences. */
  get calls(): readonly string[] {
    return this.#lines('calls');
  }

  /** When they were made, in milliseconds since 1970. */
  get callTimes(): readonly number[] {
    return this.#lines('times').map(Number);
  }

  /** Arguments of the calls of crm_attribute. */
  get attributes(): readonly string[] {
    return this.#lines('attributes');
  }

  get commands(): CommandOptions {
    const path = `PATH=${this.directory}:${process.env['PATH']}`;
    return { timeLimitMs: 2_000, prefix: ['env', path] };
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  #lines(name: string): readonly string[] {
    const file = join(this.directory, name);
    return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : [];
  }
}
