// SPDX-License-Identifier: Apache-2.0

/** What a probe declares, as the rest of the host sees it: plain data, whatever the kind of image. */

export type FieldType = 'u8' | 'u16' | 'u32' | 'u64' | 's8' | 's16' | 's32' | 's64' | 'text';
export type Role = 'detail' | 'label' | 'value' | 'pid' | 'uid' | 'comm' | 'address';
export type Unit = 'none' | 'bytes' | 'pages' | 'nanoseconds' | 'count';
export const severityNames = ['debug', 'info', 'notice', 'warning', 'critical'] as const;
export type Severity = (typeof severityNames)[number];
export type PointKind = 'kprobe' | 'kretprobe' | 'tracepoint' | 'notifier';

/** Names of the values of a field: one name per value, or a name per set bit (or group of bits). */
export interface ValueSet {
  readonly name: string;
  readonly kind: 'enum' | 'flag';
  /** As the field reads: negative ones for a signed field. Several names for a value: the first one is preferred. */
  readonly values: readonly { readonly value: bigint; readonly name: string }[];
}

export interface FieldDeclaration {
  readonly name: string;
  readonly type: FieldType;
  /** In the payload, in bytes. */
  readonly offset: number;
  /** In bytes. */
  readonly size: number;
  readonly role: Role;
  readonly unit: Unit;
  readonly doc: string;
  readonly values: ValueSet | undefined;
}

export interface EventDeclaration {
  readonly id: number;
  readonly name: string;
  readonly severity: Severity;
  readonly doc: string;
  /** In bytes, without the record header. */
  readonly payloadBytes: number;
  readonly fields: readonly FieldDeclaration[];
}

export interface PointDeclaration {
  readonly name: string;
  readonly kind: PointKind;
  readonly required: boolean;
  readonly doc: string;
}

export interface ParameterDeclaration {
  readonly name: string;
  /** As modinfo gives it: int, uint, charp, bool, array of int, …; empty where the module does not say. */
  readonly type: string;
  readonly doc: string;
}

export interface ProbeDeclaration {
  readonly name: string;
  readonly doc: string;
  readonly events: readonly EventDeclaration[];
  readonly points: readonly PointDeclaration[];
}

/** A symbol the module needs from the guest's kernel or from another module there. */
export interface SymbolNeed {
  readonly name: string;
  /** CRC it was built against; undefined where that kernel has no symbol versions. */
  readonly crc: number | undefined;
  /** The kernel loads the module without it. */
  readonly weak: boolean;
}

/** A probe image: kind + payload + declared events + parameters. Push, catalogue, decoder and sinks do not know the kind. */
export interface ProbeImage {
  readonly kind: 'native' | 'bpf';
  /** Module name: what the guest's kernel calls it. */
  readonly name: string;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly bytes: Uint8Array;
  /** Undefined where the module declares nothing (it still loads, is listed and unloads). */
  readonly declaration: ProbeDeclaration | undefined;
  readonly parameters: readonly ParameterDeclaration[];
  readonly description: string;
  readonly license: string;
  readonly version: string;
  readonly author: string;
  /** ELF machine: x86_64, aarch64, … */
  readonly architecture: string;
  /** As in modinfo: release, then flags. */
  readonly vermagic: string;
  readonly symbols: readonly SymbolNeed[];
  /** Modules that have to be loaded before it. */
  readonly depends: readonly string[];
  /** Symbol namespaces it imports. */
  readonly namespaces: readonly string[];
  readonly signed: boolean;
}

/** The name people use: the declared one, else the module's. */
export function probeName(image: Pick<ProbeImage, 'name' | 'declaration'>): string {
  return image.declaration?.name ?? image.name;
}
