// SPDX-License-Identifier: Apache-2.0

/** One Debian kernel series VESPER is built for and tested on. */
export interface KernelSeries {
  /** What the rest of the program calls it. */
  readonly key: KernelKey;
  /** The Debian suite whose newest cloud kernel is taken. */
  readonly suite: string;
  /** The compiler Debian built it with; its headers insist on the same major version. */
  readonly compiler: string;
  /**
   * The compiler and the libraries its kbuild tools need, from the same suite. Unpacked next to the kernel only
   * where the host's own compiler or C library is of another version.
   */
  readonly toolchain: readonly string[];
}

export const kernelKeys = ['6.1', '6.12'] as const;
export type KernelKey = (typeof kernelKeys)[number];

export const kernelSeries: Readonly<Record<KernelKey, KernelSeries>> = {
  '6.1': {
    key: '6.1',
    suite: 'bookworm',
    compiler: 'gcc-12',
    toolchain: [
      ...[
        'gcc-12',
        'cpp-12',
        'libc6',
        'libgcc-s1',
        'libgmp10',
        'libmpc3',
        'libmpfr6',
        'libisl23',
        'libzstd1',
      ],
      ...['zlib1g', 'libelf1', 'libssl3'],
    ],
  },
  '6.12': {
    key: '6.12',
    suite: 'trixie',
    compiler: 'gcc-14',
    toolchain: [
      ...['gcc-14-x86-64-linux-gnu', 'cpp-14-x86-64-linux-gnu', 'libc6', 'libgcc-s1', 'libgmp10', 'libmpc3'],
      ...['libmpfr6', 'libisl23', 'libzstd1', 'zlib1g', 'libelf1t64', 'libssl3t64'],
    ],
  },
};
