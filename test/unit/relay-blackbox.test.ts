// SPDX-License-Identifier: Apache-2.0

import { rmSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type BlackBoxPart, blackBox } from '../../host/relay/blackbox.ts';
import {
  critical,
  drained,
  epoch,
  newBatch,
  other,
  RelayFixture,
  rowsOf,
  smallLayout,
  statisticsOf,
} from '../harness/relay-fixture.ts';

function opened(fixture: RelayFixture, delivered = false): Record<BlackBoxPart, string[]> {
  const parts: Record<BlackBoxPart, string[]> = { delivered: [], published: [], unpublished: [] };
  blackBox({
    path: fixture.path,
    layout: fixture.layout,
    epoch,
    delivered,
    onBatch: (batch, part) => parts[part].push(...rowsOf(batch)),
  });
  return parts;
}

describe('a dead guest', () => {
  test('what nobody read is there, and stays there', () => {
    const fixture = new RelayFixture();
    fixture.writer.ring(other).write();
    fixture.writer.ring(critical).write();
    const before = fixture.writer.peek(0, smallLayout.regionBytes);
    const expected = { delivered: [], published: ['critical:0', 'other:0'], unpublished: [] };
    expect(opened(fixture)).toEqual(expected);
    expect(opened(fixture)).toEqual(expected);
    expect(fixture.writer.peek(0, smallLayout.regionBytes).equals(before)).toBe(true);
  });

  test('records nested in one that was never finished were never published, and are found', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(critical);
    ring.write();
    ring.reserve();
    ring.write();
    ring.reserve();
    ring.write();
    expect(opened(fixture)).toEqual({
      delivered: [],
      published: ['critical:0'],
      unpublished: ['critical:2', 'critical:4'],
    });
  });

  test('they are found across the end of the ring', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(critical);
    const region = fixture.openRegion();
    for (let i = 0; i < 62; i++) ring.write();
    drained(region);
    region.release();
    ring.reserve();
    ring.write();
    ring.write({ payload: new Uint8Array(500) });
    ring.write();
    expect(opened(fixture)).toEqual({
      delivered: [],
      published: [],
      unpublished: ['critical:63', 'critical:64', 'critical:65'],
    });
  });

  test('records that were delivered are still there as far as they were not overwritten', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    const region = fixture.openRegion();
    for (let i = 0; i < 100; i++) {
      ring.write();
      drained(region);
      region.release();
    }
    ring.write();
    const parts = opened(fixture, true);
    expect(parts.published).toEqual(['other:100']);
    // 64 records fit; a quarter of the ring behind head is not trusted.
    expect(parts.delivered).toEqual(Array.from({ length: 47 }, (_, i) => `other:${i + 53}`));
  });

  test('an old record under an unfinished new one is not taken for history', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    const region = fixture.openRegion();
    for (let i = 0; i < 64; i++) ring.write();
    drained(region);
    region.release();
    // Overwrites the payload of record 0, whose tag stays until the commit that never comes.
    ring.reserve({ payload: new Uint8Array(32).fill(0xee) });
    expect(opened(fixture, true).delivered).not.toContain('other:0');
    expect(opened(fixture).unpublished).toEqual([]);
  });

  test('a ring found broken gives what came before', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(other);
    for (let i = 0; i < 3; i++) ring.write();
    fixture.writer.poke(ring.at(64), new Uint8Array(4));
    // What follows the broken one is found by its tag.
    expect(opened(fixture)).toEqual({ delivered: [], published: ['other:0'], unpublished: ['other:2'] });
  });

  test('a region that is gone is an error with its path', () => {
    const fixture = new RelayFixture();
    rmSync(fixture.path);
    expect(() => opened(fixture)).toThrow(
      expect.objectContaining({ code: 'RELAY', message: expect.stringContaining(fixture.path) }),
    );
  });
});

describe('a guest that is silent and perhaps not dead', () => {
  test('what was found beyond head is not delivered again when it is published after all', () => {
    const fixture = new RelayFixture();
    const ring = fixture.writer.ring(critical);
    const region = fixture.openRegion();
    const batch = newBatch();
    const beyond = (): string[] => {
      batch.count = region.beyond(batch.native);
      return rowsOf(batch);
    };
    const outer = ring.reserve();
    ring.write();
    expect(drained(region)).toEqual([]);
    expect(beyond()).toEqual(['critical:1']);
    expect(beyond()).toEqual([]);
    ring.write();
    expect(beyond()).toEqual(['critical:2']);
    expect(beyond()).toEqual([]);
    outer?.commit();
    expect(drained(region)).toEqual(['critical:0']);
    expect(statisticsOf(region, smallLayout)[critical]).toMatchObject({
      received: 3,
      gaps: 0,
      nextSequence: 3,
    });
  });
});
