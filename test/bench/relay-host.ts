// SPDX-License-Identifier: Apache-2.0

/**
 * What the host's half of the relay can do, without a guest: records are prepared in a region file, and only their reading is
 * timed.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ClockAlignment } from '../../host/guest/clock.ts';
import { EventBatch } from '../../host/guest/event-batch.ts';
import { ProbeTable } from '../../host/guest/probe-table.ts';
import { silentLog } from '../../host/log.ts';
import type {
  EventDeclaration,
  FieldDeclaration,
  ProbeImage,
  ValueSet,
} from '../../host/probe/declaration.ts';
import { RelayBatch } from '../../host/relay/batch.ts';
import { compileDecoder } from '../../host/relay/decoder.ts';
import { RelayHub } from '../../host/relay/hub.ts';
import { type RegionLayout, regionLayout, splitRegion } from '../../host/relay/layout.ts';
import { loadRelayAddon } from '../../host/relay/native.ts';
import { Bus } from '../../host/service/bus.ts';
import { renderPage } from '../../host/sink/prometheus/page.ts';
import { PrometheusSink } from '../../host/sink/prometheus/sink.ts';
import { recordHeader, ringBlock } from '../../host/wire/region.ts';
import { encode } from '../../host/wire/struct.ts';
import { atLeast, atMost, report } from '../harness/figure.ts';
import { RegionWriter } from '../harness/region-writer.ts';

const epoch = 0x5eed_0001n;
const MiB = 1 << 20;

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

/** Fills a ring with records of one size as fast as a test can: all at once, and then one head. Their payloads take turns. */
class Filler {
  readonly writer: RegionWriter;
  readonly #layout: RegionLayout;
  readonly #records: readonly Buffer[];
  readonly #area: Buffer;
  readonly #head = Buffer.alloc(24);
  #position = 0;
  #sequence = 0;

  constructor(path: string, layout: RegionLayout, ...payloads: readonly Uint8Array[]) {
    this.writer = new RegionWriter(path, layout, epoch);
    this.#layout = layout;
    this.#records = payloads.map((payload) => {
      const length = recordHeader.size + payload.length;
      const record = Buffer.alloc((length + 7) & ~7);
      record.set(encode(recordHeader, { length, slot: 1, event: 1, time_ns: 1n }));
      record.set(payload, recordHeader.size);
      return record;
    });
    this.#area = Buffer.alloc(this.#ring.dataBytes);
  }

  /** As many records as fit; returns how many. */
  fill(): number {
    const { dataBytes, dataOffset, blockOffset } = this.#ring;
    const size = (this.#records[0] as Buffer).length;
    const count = Math.floor(dataBytes / size);
    const low = Number(epoch & 0xffff_ffffn);
    for (let i = 0; i < count; i++) {
      const at = i * size;
      this.#area.set(this.#records[i % this.#records.length] as Buffer, at);
      this.#area.writeUInt32LE((((this.#position + at) / 8) ^ low) >>> 0, at);
      this.#area.writeUIntLE(this.#sequence++, at + recordHeader.offsets.sequence, 6);
    }
    const rest = dataBytes - count * size;
    if (rest > 0) {
      this.#area.writeUInt32LE((((this.#position + count * size) / 8) ^ low) >>> 0, count * size);
      this.#area.writeUInt32LE((0x8000_0000 | rest) >>> 0, count * size + 4);
    }
    this.writer.poke(dataOffset, this.#area);
    this.#position += dataBytes;
    this.#head.writeBigUInt64LE(BigInt(this.#position), 0);
    this.#head.writeBigUInt64LE(BigInt(this.#sequence), 8);
    this.writer.poke(blockOffset + ringBlock.offsets.head, this.#head);
    return count;
  }

  get #ring(): RegionLayout['rings'][number] {
    const ring = this.#layout.rings[1];
    if (ring === undefined) throw new Error('no ring');
    return ring;
  }
}

/** Records a second to columns, every check made. Medians of rounds. */
function columnsPerSecond(folder: string, regionBytes: number): number {
  const layout = regionLayout({ regionBytes, cpuCount: 1, ...splitRegion(regionBytes, 1) });
  const path = join(folder, `columns-${regionBytes}`);
  const filler = new Filler(path, layout, new Uint8Array(32).fill(7));
  const addon = loadRelayAddon();
  const region = new addon.Region(path, { bytes: regionBytes, epoch, rings: layout.rings });
  const batch = new addon.Batch(4096, 512 * 1024);
  const rates: number[] = [];
  let taken = 0;
  let written = 0;
  for (let round = 0; round < Math.max(20, (200 * MiB) / regionBytes); round++) {
    written += filler.fill();
    const before = performance.now();
    const start = taken;
    for (let n = region.drain(batch); n > 0; n = region.drain(batch)) {
      taken += n;
      region.release();
    }
    rates.push((taken - start) / ((performance.now() - before) / 1e3));
  }
  if (taken !== written) throw new Error(`${taken} of ${written} records came out`);
  region.close();
  filler.writer.close();
  return median(rates);
}

const names = (name: string, count: number): ValueSet => ({
  name,
  kind: 'enum',
  values: Array.from({ length: count }, (_, value) => ({
    value: BigInt(value),
    name: `${name.toUpperCase()}_${value}`,
  })),
});

/** As the signal probe's `delivered`: 5 enums, 6 numbers, 2 names. */
function signalEvent(): EventDeclaration {
  let offset = 0;
  const field = (name: string, size: number, values?: ValueSet): FieldDeclaration => {
    const type = size === 4 ? 'u32' : 'text';
    const role = values === undefined ? 'detail' : 'label';
    const declared = { name, type, offset, size, role, unit: 'none', doc: '', values } as const;
    offset += size;
    return declared;
  };
  const fields = [
    field('signal', 4, names('signal', 32)),
    field('code', 4, names('code', 40)),
    field('result', 4, names('result', 4)),
    field('kernel', 4, names('kernel', 2)),
    field('scope', 4, names('scope', 2)),
    field('sender_pid', 4),
    field('sender_tgid', 4),
    field('sender_uid', 4),
    field('sender_comm', 16),
    field('target_pid', 4),
    field('target_tgid', 4),
    field('target_uid', 4),
    field('target_comm', 16),
  ];
  return { id: 1, name: 'delivered', severity: 'info', doc: '', payloadBytes: offset, fields };
}

/** As many combinations of signal and code as a busy guest has. */
function signalPayloads(bytes: number): readonly Buffer[] {
  return Array.from({ length: 24 }, (_, turn) => {
    const payload = Buffer.alloc(bytes);
    payload.writeUInt32LE(turn % 8, 0);
    payload.writeUInt32LE(turn % 3, 4);
    payload.writeUInt32LE(4711, 20);
    payload.write('kworker/u8:2', 32, 'latin1');
    payload.write('postgres', 60, 'latin1');
    return payload;
  });
}

/** What a probe's events are read with, as in a session. */
function signalBatch(declaration: EventDeclaration): EventBatch {
  const table = new ProbeTable();
  const image = { declaration: { name: 'signal', doc: '', events: [declaration], points: [] } };
  table.set({
    slot: 1,
    name: 'signal',
    sha256: '',
    image: image as unknown as ProbeImage,
    registered: true,
    armedPoints: 2,
    points: [],
    args: '',
  });
  return new EventBatch({ guest: 'web1', uuid: 'web1', bootId: '' }, table, new ClockAlignment());
}

interface FanOut {
  readonly eventsPerSecond: number;
  /** Of the metrics' sink alone, for a million events. */
  readonly sinkMs: number;
}

/** Events a second that reach three handlers as objects with names, through hub, relay and bus; with or without the metrics' sink. */
function fanOut(folder: string, metrics: boolean): FanOut {
  const layout = regionLayout({ regionBytes: MiB, cpuCount: 1, ...splitRegion(MiB, 1) });
  const path = join(folder, `events-${metrics}`);
  const declaration = signalEvent();
  const filler = new Filler(path, layout, ...signalPayloads(declaration.payloadBytes));
  let handled = 0;
  const handlers = [
    (event: Record<string, unknown>): void => void (event['signal'] !== '' && handled++),
    (event: Record<string, unknown>): void => void (event['target_comm'] === 'postgres' && handled++),
    (event: Record<string, unknown>): void => void (event['sender_pid'] === 4711 && handled++),
  ];
  const bus = new Bus(silentLog());
  const sink = new PrometheusSink(({ name }) => name);
  let sinkMs = 0;
  if (metrics) {
    const deliver = (batch: EventBatch) => {
      const before = performance.now();
      sink.deliver(batch);
      sinkMs += performance.now() - before;
    };
    bus.add({ name: 'prometheus', deliver });
  }
  bus.add({
    name: 'handlers',
    deliver: (batch) => {
      const { columns } = batch;
      for (let row = 0; row < batch.length; row++) {
        const event = batch.decoder(row)?.toObject(columns, row);
        if (event !== undefined) for (const handler of handlers) handler(event);
      }
    },
  });
  const events = signalBatch(declaration);
  const hub = new RelayHub();
  const relay = hub.open({ path, layout, epoch, onBatch: (batch) => bus.publish(events.bind(batch)) });
  const rates: number[] = [];
  const sinkMsPerMillion: number[] = [];
  let written = 0;
  for (let round = 0; round < 150; round++) {
    const count = filler.fill();
    written += count;
    sinkMs = 0;
    const before = performance.now();
    relay.drain();
    rates.push(count / ((performance.now() - before) / 1e3));
    sinkMsPerMillion.push((sinkMs * 1e6) / count);
  }
  if (handled !== 3 * written) throw new Error(`${handled} calls for ${written} events`);
  const total = sink.families().find(({ name }) => name === 'vesper_events_total');
  const [counted] = total?.samples ?? [];
  if (metrics && counted?.value !== written) throw new Error(`${counted?.value} of ${written} counted`);
  relay.close();
  hub.close();
  filler.writer.close();
  return { eventsPerSecond: median(rates), sinkMs: median(sinkMsPerMillion) };
}

/**
 * Makes the page of guests that used up their limits of series; how long that takes, and how much processor time passes at most before
 * the event loop has its turn.
 */
async function pageMs(guests: number): Promise<{ readonly page: number; readonly longestHold: number }> {
  const sink = new PrometheusSink(({ name }) => name);
  const declaration = signalEvent();
  const payloads = Array.from({ length: 300 }, (_, signal) => {
    const payload = Buffer.alloc(declaration.payloadBytes);
    payload.writeUInt32LE(1_000 + signal, 0);
    return payload;
  });
  const decoder = compileDecoder(declaration);
  for (let guest = 0; guest < guests; guest += 1) {
    const count = payloads.length;
    const numbers = new Uint16Array(count);
    const columns = new RelayBatch(
      {
        slot: numbers,
        event: numbers,
        cpu: numbers,
        ring: numbers,
        timeNs: new Float64Array(count),
        sequence: new Float64Array(count),
        payloadOffset: Uint32Array.from(payloads, (_, row) => row * declaration.payloadBytes),
        payloadBytes: new Uint32Array(count).fill(declaration.payloadBytes),
        arena: new Uint8Array(Buffer.concat(payloads)),
      },
      count,
    );
    sink.deliver({
      incarnation: { guest: `guest-${guest}`, uuid: `${guest}` },
      length: count,
      columns,
      probeName: () => 'signal',
      decoder: () => decoder,
      latencyUs: () => 100,
    });
  }
  let longestHold = 0;
  const processorMs = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e3;
  };
  let last = processorMs();
  const ticks = setInterval(() => {
    const now = processorMs();
    longestHold = Math.max(longestHold, now - last);
    last = now;
  }, 0);
  const times: number[] = [];
  for (let round = 0; round < 10; round += 1) {
    const before = performance.now();
    await renderPage(sink.families());
    times.push(performance.now() - before);
  }
  clearInterval(ticks);
  return { page: median(times), longestHold };
}

/** From the record to the handler, in milliseconds, at 1,000 records a second from another process. */
async function streamingLatencyMs(folder: string): Promise<number> {
  const layout = regionLayout({ regionBytes: MiB, cpuCount: 1, ...splitRegion(MiB, 1) });
  const path = join(folder, 'stream');
  new RegionWriter(path, layout, epoch).close();
  const latencies: number[] = [];
  const hub = new RelayHub();
  const relay = hub.open({
    path,
    layout,
    epoch,
    onBatch: (batch: RelayBatch) => {
      const now = Number(process.hrtime.bigint());
      for (let row = 0; row < batch.count; row++) latencies.push((now - (batch.timeNs[row] as number)) / 1e6);
    },
  });
  relay.start();
  const writer = spawn(process.execPath, [fileURLToPath(import.meta.url), 'stream', path], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  // No doorbell here: a region that fell asleep is looked at often enough to go on, and what that costs is left in.
  const look = setInterval(() => relay.wake(), 20);
  await once(writer, 'exit');
  relay.drain();
  clearInterval(look);
  relay.close();
  hub.close();
  if (latencies.length !== 3000) throw new Error(`${latencies.length} of 3000 records arrived`);
  return median(latencies.slice(500));
}

/** The other process of `streamingLatencyMs`. */
function stream(path: string): void {
  const layout = regionLayout({ regionBytes: MiB, cpuCount: 1, ...splitRegion(MiB, 1) });
  const writer = new RegionWriter(path, layout, epoch, { resume: true });
  const waiting = new Int32Array(new SharedArrayBuffer(4));
  let next = performance.now();
  for (let i = 0; i < 3000; i++) {
    next += 1;
    const left = next - performance.now();
    if (left > 0) Atomics.wait(waiting, 0, 0, left);
    writer.ring(1).write({ timeNs: process.hrtime.bigint() });
  }
}

if (process.argv[2] === 'stream') {
  stream(process.argv[3] ?? '');
} else {
  const folder = mkdtempSync(`/dev/shm/vesper-bench-${process.pid}-`);
  try {
    report('relay_columns_1mib', columnsPerSecond(folder, MiB) / 1e6, 'M records/s', atLeast(5));
    report('relay_columns_64mib', columnsPerSecond(folder, 64 * MiB) / 1e6, 'M records/s', atLeast(5));
    report('relay_fan_out', fanOut(folder, false).eventsPerSecond / 1e3, 'k events/s', atLeast(500));
    const { eventsPerSecond, sinkMs } = fanOut(folder, true);
    report('relay_fan_out_with_metrics', eventsPerSecond / 1e3, 'k events/s', atLeast(500));
    report('metrics_sink_per_million_events', sinkMs, 'ms', atMost(300));
    const { page, longestHold } = await pageMs(100);
    report('metrics_page_of_100_guests_at_their_limits', page, 'ms', atMost(1000));
    report('metrics_page_longest_hold_of_the_event_loop', longestHold, 'ms', atMost(50));
    report('relay_streaming_latency_median', await streamingLatencyMs(folder), 'ms', atMost(0.5));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
