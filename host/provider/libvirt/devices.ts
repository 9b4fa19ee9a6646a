// SPDX-License-Identifier: Apache-2.0

/** The devices of one running domain: read from its live XML, plugged and unplugged by their aliases. */

import { VesperError } from '../../error.ts';
import type { Logger } from '../../log.ts';
import { type Owner, ownerWith } from '../qemu/site.ts';
import { type DomainDevices, domainDevices } from './domain-xml.ts';
import { codeOf } from './failure.ts';
import type { LibvirtLink } from './link.ts';
import { qemuUser } from './uri.ts';

/** Where things of one domain are done. */
export interface DomainSite {
  readonly name: string;
  readonly uuid: string;
  readonly link: LibvirtLink;
  /** Path of region files, without their random end; libvirt has them in /dev/shm. */
  readonly regionPrefix: string;
  /** Of the files that stand for a region where records come over the channel. */
  readonly shadowPrefix: string;
  readonly unplugLimitMs: number;
  readonly log: Logger;
}

const repeatMs = 2_000;

export class Devices {
  readonly #site: DomainSite;
  readonly #waiting = new Map<string, () => void>();

  constructor(site: DomainSite) {
    this.#site = site;
  }

  list(): Promise<DomainDevices> {
    return this.#site.link.onDomain(this.#site, 'its XML', async (domain) =>
      domainDevices(await domain.xml()),
    );
  }

  /** Into the running domain only: its configuration stays as it is. */
  async plug(what: string, xml: string): Promise<void> {
    await this.#site.link.onDomain(this.#site, `plugging ${what} in`, (domain) =>
      domain.attachDevice(xml, { live: true }),
    );
  }

  /**
   * Resolves when libvirt says that the device is gone. The guest has to let a PCI device go; what it misses while it boots is asked
   * again. Throws TIMEOUT with the hint.
   */
  async unplug(alias: string, hint: string): Promise<void> {
    const { name, unplugLimitMs } = this.#site;
    const gone = Promise.withResolvers<void>();
    const failed = Promise.withResolvers<never>();
    this.#waiting.set(alias, gone.resolve);
    const ask = async (): Promise<void> => {
      if (await this.#ask(alias)) gone.resolve();
    };
    const repeat = setInterval(() => ask().catch(failed.reject), repeatMs);
    const timer = setTimeout(() => {
      const message = `${name}: device ${alias} was not let go within ${unplugLimitMs} ms: ${hint}`;
      failed.reject(new VesperError('TIMEOUT', message, { data: { guest: name, device: alias } }));
    }, unplugLimitMs);
    try {
      await Promise.race([ask().then(() => gone.promise), gone.promise, failed.promise]);
    } finally {
      clearInterval(repeat);
      clearTimeout(timer);
      this.#waiting.delete(alias);
    }
  }

  /** Of libvirt's event. */
  removed(alias: string): void {
    this.#waiting.get(alias)?.();
  }

  /** Whom files have to belong to that QEMU opens. */
  async owner(devices: DomainDevices): Promise<Owner> {
    const { uid, gid } = await qemuUser(this.#site.link.uri, devices);
    return ownerWith(uid, gid);
  }

  /** Asks for it; true where there is no such device any more. */
  #ask(alias: string): Promise<boolean> {
    const { link } = this.#site;
    return link.onDomain(this.#site, `unplugging ${alias}`, async (domain) => {
      try {
        await domain.detachAlias(alias, { live: true });
        return false;
      } catch (thrown) {
        if (codeOf(thrown) === 'VIR_ERR_DEVICE_MISSING') return true;
        if (thrown instanceof Error && /in the process of unplug/i.test(thrown.message)) return false;
        throw thrown;
      }
    });
  }
}
