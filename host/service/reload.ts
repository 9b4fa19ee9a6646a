// SPDX-License-Identifier: Apache-2.0

/** A configuration that is read anew while the service runs. One that is wrong is refused, and the one before stays in force. */

import { messageOf } from '../error.ts';
import type { ServiceManager } from './notify.ts';
import type { Service } from './service.ts';
import { needRestart, type Settings } from './settings.ts';

const problemKey = 'configuration';

export class Reload {
  readonly #service: Service;
  readonly #manager: ServiceManager;
  readonly #read: () => Settings;
  /** What the service was started with: some of it holds until it is started again. */
  readonly #started: Settings;
  #refused = false;

  constructor(service: Service, manager: ServiceManager, read: () => Settings, started: Settings) {
    this.#service = service;
    this.#manager = manager;
    this.#read = read;
    this.#started = started;
  }

  /** One line, for the service manager. */
  get status(): string {
    const file = this.#started.file ?? 'no configuration file';
    return this.#refused ? `serving; ${file} is wrong and was refused` : `serving; ${file}`;
  }

  now(): void {
    this.#manager.reloading();
    try {
      this.#take(this.#read());
      this.#refused = false;
    } catch (thrown) {
      this.#refused = true;
      const sentence = `the configuration was refused, the one before stays in force: ${messageOf(thrown)}`;
      for (const line of sentence.split('\n')) this.#service.log.error(line);
      this.#service.setProblem(problemKey, sentence.replaceAll('\n', '; '));
    }
    this.#manager.ready(this.status);
  }

  #take(settings: Settings): void {
    const { log } = this.#service;
    log.level = settings.logLevel;
    this.#service.reconfigure(settings.service.probes ?? []);
    this.#service.reconfigureCluster(settings.service.pacemaker);
    const late = needRestart(this.#started, settings);
    const sentence = `${settings.file ?? ''}: ${late.join(', ')} changed, which the service takes up when it is started again (guests keep their probes meanwhile)`;
    if (late.length > 0) log.warn(sentence);
    this.#service.setProblem(problemKey, late.length > 0 ? sentence : undefined);
    log.info(`configuration read anew: ${settings.file ?? 'there is none'}`);
  }
}
