// SPDX-License-Identifier: Apache-2.0

/** What a guest sends over the channel, put into a region and read as any other. */

import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { loadRelayAddon, type NativeRegion } from '../../host/relay/native.ts';
import { ShadowRegion } from '../../host/relay/shadow.ts';
import { drained, epoch, other, RelayFixture, smallLayout, statisticsOf } from '../harness/relay-fixture.ts';

class Inline {
  /** The guest: its rings lie in a file of its own. */
  readonly guest = new RelayFixture();
  readonly path: string;
  readonly ring = this.guest.writer.ring(other);
  shadow: ShadowRegion;
  region: NativeRegion;

  constructor() {
    const folder = mkdtempSync(join(tmpdir(), 'vesper-shadow-'));
    this.path = join(folder, 'region');
    const fd = openSync(this.path, 'wx');
    ftruncateSync(fd, smallLayout.regionBytes);
    closeSync(fd);
    this.shadow = this.open(false);
    this.region = this.read();
    onTestFinished(() => {
      this.region.close();
      this.shadow.close();
      rmSync(folder, { recursive: true });
    });
  }

  open(resume: boolean): ShadowRegion {
    const [token, bootId] = [new Uint8Array(16).fill(1), new Uint8Array(16).fill(2)];
    return new ShadowRegion({ path: this.path, token, bootId, layout: smallLayout, epoch, resume });
  }

  read(): NativeRegion {
    const { regionBytes: bytes, rings } = smallLayout;
    return new (loadRelayAddon().Region)(this.path, { bytes, epoch, rings, resume: true });
  }

  /** As the frontend sends a ring from `position` to its head. */
  send(position: number, change: object = {}, head = this.ring.head): boolean {
    const { attempts, lost, layout } = this.ring;
    const data = this.guest.writer.peek(layout.dataOffset + (position % layout.dataBytes), head - position);
    const counts = { attempts: BigInt(attempts), lost: BigInt(lost) };
    return this.shadow.take(
      { epoch, ring: other, reserved: 0, position: BigInt(position), ...counts, ...change },
      data,
    );
  }

  get faults(): readonly string[] {
    return statisticsOf(this.region, smallLayout).map(({ fault }) => fault);
  }
}

describe('what a guest sends', () => {
  test('is read, and its delivery is told once', () => {
    const inline = new Inline();
    for (let n = 0; n < 3; n++) inline.ring.write();
    expect(inline.send(0)).toBe(true);
    expect(drained(inline.region)).toEqual(['other:0', 'other:1', 'other:2']);
    inline.shadow.consumed();
    inline.region.release();
    expect(inline.shadow.consumed()).toEqual([{ epoch, ring: other, tail: BigInt(inline.ring.head) }]);
    expect(inline.shadow.consumed()).toEqual([]);
    expect(statisticsOf(inline.region, smallLayout)[other]).toMatchObject({ guestAttempts: 3, gaps: 0 });
  });

  test('counters come without records, too', () => {
    const inline = new Inline();
    inline.send(0, { attempts: 7n, lost: 7n });
    expect(statisticsOf(inline.region, smallLayout)[other]).toMatchObject({ guestAttempts: 7, guestLost: 7 });
  });

  test('a second time, to a service that resumes: each record is given once', () => {
    const inline = new Inline();
    inline.ring.write();
    inline.send(0);
    expect(drained(inline.region)).toEqual(['other:0']);
    inline.region.release();
    inline.ring.write();
    inline.send(0);
    // The service dies before it reads the second, and before the guest was told of the first.
    inline.region.close();
    inline.shadow.close();
    inline.shadow = inline.open(true);
    inline.region = inline.read();
    inline.ring.write();
    inline.send(0);
    expect(drained(inline.region)).toEqual(['other:1', 'other:2']);
    expect(inline.shadow.consumed()).toContainEqual({
      epoch,
      ring: other,
      tail: BigInt(inline.ring.written[1] as number),
    });
  });

  test.each([
    ['of another epoch', { epoch: epoch + 1n }],
    ['of a ring that is not there', { ring: 2 }],
    ['of ring 4294967295', { ring: 0xffff_ffff }],
  ])('%s: not taken', (_, change) => {
    const inline = new Inline();
    inline.ring.write();
    expect(inline.send(0, change)).toBe(false);
    expect(drained(inline.region)).toEqual([]);
    expect(inline.faults).toEqual(['none', 'none']);
  });

  test.each([
    ['with a hole before it', 1024n, 'tag'],
    ['at a position that is not aligned', 4n, 'head-misaligned'],
    ['far away', 2n ** 63n, 'head-overrun'],
    ['beyond what the ring holds', 8192n, 'head-overrun'],
  ])('%s: the ring is found broken, the other one goes on', (_, position, fault) => {
    const inline = new Inline();
    inline.ring.write();
    inline.send(0, { position });
    expect(drained(inline.region)).toEqual([]);
    expect(inline.faults).toEqual(['none', fault]);
  });

  test('across the end of a ring: nothing is written behind it', () => {
    const inline = new Inline();
    const { dataBytes } = inline.ring.layout;
    const before = inline.region.read(0, smallLayout.regionBytes).slice(-4096);
    const counts = { attempts: 0n, lost: 0n, reserved: 0 };
    inline.shadow.take(
      { epoch, ring: other, position: BigInt(dataBytes - 64), ...counts },
      new Uint8Array(4096).fill(255),
    );
    expect(inline.region.read(0, smallLayout.regionBytes).slice(-4096)).toEqual(before);
    expect(drained(inline.region)).toEqual([]);
    expect(inline.faults[other]).not.toBe('none');
  });
});
