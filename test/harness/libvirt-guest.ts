// SPDX-License-Identifier: Apache-2.0

import { randomUUID } from 'node:crypto';
import { chmodSync, chownSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultGuestModules, guestImage, type ImageOptions } from '../../host/demo/image.ts';
import type { MachineType } from '../../host/demo/qemu-arguments.ts';
import { SerialLine } from '../../host/demo/serial.ts';
import { GuestShell } from '../../host/demo/shell.ts';
import { VesperError } from '../../host/error.ts';
import { fetchKernel } from '../../host/kernel/fetch.ts';
import type { KernelKey } from '../../host/kernel/release.ts';
import { isLibvirtError, type NativeDomain } from '../../host/provider/libvirt/native.ts';
import type { Libvirtd } from './libvirtd.ts';

const bootLimitMs = 60_000;

export interface LibvirtGuestOptions {
  readonly name?: string;
  readonly machine?: MachineType;
  readonly kernel?: KernelKey;
  /** With the frontend; without unless given. */
  readonly frontend?: boolean;
  /** More XML among the devices. */
  readonly devices?: string;
  /** Of q35; 6 unless given. */
  readonly rootPorts?: number;
  /** False: the machine has none. */
  readonly virtioSerial?: boolean;
  /** RAM that other processes can map. */
  readonly sharedMemory?: boolean;
  /** With unit; 256 MiB unless given. */
  readonly memory?: { readonly size: number; readonly unit: 'MiB' | 'KiB' };
  /** Further kernel modules that it loads. */
  readonly modules?: readonly string[];
  /** Further arguments of its kernel. */
  readonly kernelArguments?: string;
  /** Further files of its image; `etc/rc` is run before it is ready. */
  readonly files?: ImageOptions['files'];
}

/** Where a guest's files go, and whose they are. */
export type GuestFiles = Pick<Libvirtd, 'directory' | 'uid' | 'file'>;

/**
 * A stock guest as a libvirt domain: its XML, its serial lines, its shell. libvirt starts and ends it; the test keeps the
 * other end of its lines, which outlive a reboot, a restore and a migration.
 */
export class LibvirtGuest {
  readonly name: string;
  readonly uuid = randomUUID();
  readonly xml: string;
  readonly console: SerialLine;
  readonly shell: GuestShell;
  readonly #shellLine: SerialLine;

  private constructor(
    name: string,
    console: SerialLine,
    shellLine: SerialLine,
    xml: (uuid: string) => string,
  ) {
    this.name = name;
    this.console = console;
    this.#shellLine = shellLine;
    this.shell = new GuestShell(shellLine);
    this.xml = xml(this.uuid);
  }

  /** Prepares it in the daemon's folder; nothing is started. */
  static async create(daemon: GuestFiles, options: LibvirtGuestOptions = {}): Promise<LibvirtGuest> {
    const name = options.name ?? 'guest';
    const kernel = await fetchKernel(options.kernel ?? '6.1');
    const image = await guestImage(kernel, {
      ...(options.frontend === true ? {} : { frontend: false }),
      modules: [...defaultGuestModules, 'virtio_balloon', ...(options.modules ?? [])],
      files: options.files ?? {},
    });
    // The daemon's user may not look into this user's cache.
    const copy = (file: string, source: string) => {
      const path = join(daemon.directory, file);
      return existsSync(path) ? path : daemon.file(file, readFileSync(source));
    };
    const files = {
      kernelImage: copy(`kernel-${kernel.release}`, kernel.image),
      initrd: copy(`${name}.cpio`, image),
    };
    const line = async (file: string) => {
      const path = join(daemon.directory, `${name}-${file}`);
      const serial = await SerialLine.listen(path);
      chownSync(path, daemon.uid, daemon.uid);
      chmodSync(path, 0o600);
      return { path, serial };
    };
    const console = await line('console');
    const shell = await line('shell');
    return new LibvirtGuest(name, console.serial, shell.serial, (uuid) =>
      domainXml({ ...options, ...files, name, uuid, lines: [console.path, shell.path] }),
    );
  }

  /** Resolves when the guest has booted behind `position` of its console, and its shell answers. */
  async waitReady(position = 0): Promise<void> {
    await this.console.waitFor(/^VESPER-GUEST READY .*$/m, bootLimitMs, position);
    await this.shell.greet(bootLimitMs);
  }

  async check(command: string): Promise<string> {
    const { status, output } = await this.shell.run(command);
    if (status !== 0) throw new Error(`in ${this.name} "${command}" failed with status ${status}: ${output}`);
    return output;
  }

  close(): void {
    const reason = new VesperError('SESSION_ENDED', `${this.name} was closed`);
    this.console.close(reason);
    this.#shellLine.close(reason);
  }
}

/** Destroys a domain that is gone then: libvirt may see it end before its own call is done, and no longer know it. */
export async function destroyTransient(domain: NativeDomain): Promise<void> {
  await domain.destroy().catch((thrown) => {
    if (!isLibvirtError(thrown) || thrown.code !== 'VIR_ERR_NO_DOMAIN') throw thrown;
  });
}

interface DomainParts extends LibvirtGuestOptions {
  readonly name: string;
  readonly uuid: string;
  readonly kernelImage: string;
  readonly initrd: string;
  /** Sockets that QEMU connects its serial lines to. */
  readonly lines: readonly string[];
}

/** The domain as its owner would have defined it: of VESPER there is nothing in it. */
function domainXml(parts: DomainParts): string {
  const modules = [
    ...['virtio_pci', 'virtio_console', 'virtio_balloon', ...(parts.modules ?? [])],
    ...(parts.frontend ? ['vesper'] : []),
  ];
  const rootPorts =
    parts.machine === 'q35'
      ? `<controller type='pci' index='0' model='pcie-root'/>${`<controller type='pci' model='pcie-root-port'/>`.repeat(parts.rootPorts ?? 6)}`
      : '';
  const { size, unit } = parts.memory ?? { size: 256, unit: 'MiB' };
  const shared = parts.sharedMemory
    ? "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    : '';
  return `<domain type='qemu'>
  <name>${parts.name}</name>
  <uuid>${parts.uuid}</uuid>
  <memory unit='${unit}'>${size}</memory>${shared}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='${parts.machine ?? 'pc'}'>hvm</type>
    <kernel>${parts.kernelImage}</kernel>
    <initrd>${parts.initrd}</initrd>
    <cmdline>console=ttyS0 sysrq_always_enabled reboot=k no_timer_check panic=0 vesper_init=shell vesper_modules=${modules.join(',')} ${parts.kernelArguments ?? ''}</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>16</tb-cache></tcg></features>
  <cpu mode='maximum'/>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>${rootPorts}
    ${parts.virtioSerial === false ? '' : "<controller type='virtio-serial' index='0'/>"}
    ${parts.lines.map((path) => `<serial type='unix'><source mode='connect' path='${path}'/></serial>`).join('\n    ')}
    <serial type='null'/>
    <memballoon model='virtio'/>
    ${parts.devices ?? ''}
  </devices>
</domain>`;
}
