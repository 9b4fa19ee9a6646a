// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { EventDeclaration, FieldDeclaration } from '../../host/probe/declaration.ts';
import { RelayBatch } from '../../host/relay/batch.ts';
import { compileDecoder, type EventDecoder } from '../../host/relay/decoder.ts';
import { renderPage } from '../../host/sink/prometheus/page.ts';
import { PrometheusSink } from '../../host/sink/prometheus/sink.ts';
import { MetricsPage } from '../harness/metrics-page.ts';

const field = (
  declaration: Pick<FieldDeclaration, 'name' | 'type' | 'offset' | 'size'> & Partial<FieldDeclaration>,
): FieldDeclaration => ({
  role: 'label',
  unit: 'none',
  doc: 'some field',
  values: undefined,
  ...declaration,
});

const event = (name: string, payloadBytes: number, ...fields: FieldDeclaration[]): EventDeclaration => ({
  id: 1,
  name,
  severity: 'warning',
  doc: 'Something happened.',
  payloadBytes,
  fields,
});

const signal = field({
  name: 'signal',
  type: 'u32',
  offset: 0,
  size: 4,
  values: {
    name: 'signal',
    kind: 'enum',
    values: [
      { value: 9n, name: 'SIGKILL' },
      { value: 11n, name: 'SIGSEGV' },
    ],
  },
});
const text = (name: string, offset: number, size: number) => field({ name, type: 'text', offset, size });

/** Payloads as the batch of a guest; all rows are of one event. */
function batchOf(decoder: EventDecoder, payloads: readonly Uint8Array[], probe = 'demo', guest = 'web1') {
  const count = payloads.length;
  const room = payloads.map(({ length }) => (length + 7) & ~7);
  const arena = new Uint8Array(room.reduce((sum, bytes) => sum + bytes, 0));
  const payloadOffset = new Uint32Array(count);
  let end = 0;
  for (const [row, payload] of payloads.entries()) {
    arena.set(payload, end);
    payloadOffset[row] = end;
    end += room[row] ?? 0;
  }
  const numbers = new Uint16Array(count);
  const columns = new RelayBatch(
    {
      slot: numbers,
      event: numbers.slice().fill(1),
      cpu: numbers,
      ring: numbers,
      timeNs: new Float64Array(count),
      sequence: new Float64Array(count),
      payloadOffset,
      payloadBytes: Uint32Array.from(payloads, ({ length }) => length),
      arena,
    },
    count,
  );
  return {
    incarnation: { guest, uuid: `uuid of ${guest}` },
    length: count,
    columns,
    probeName: () => probe,
    decoder: (row: number) => (decoder.fits(columns, row) ? decoder : undefined),
    latencyUs: (row: number) => [300, -5, Number.POSITIVE_INFINITY][row] ?? 300,
  };
}

const newSink = (taken: readonly string[] = []) => new PrometheusSink(({ name }) => name, taken);
const textOf = (sink: PrometheusSink) => renderPage(sink.families());
const pageOf = async (sink: PrometheusSink) => new MetricsPage(await textOf(sink));

const words = (...values: readonly number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);
const chars = (content: string | Uint8Array, size: number): Uint8Array => {
  const out = new Uint8Array(size);
  out.set(typeof content === 'string' ? Buffer.from(content) : content);
  return out;
};

describe('what a probe declares', () => {
  test('label fields become labels of a counter, with the names of their values', async () => {
    const sink = newSink();
    const died = compileDecoder(event('died', 4, signal));
    sink.deliver(batchOf(died, [words(9), words(11), words(9), words(64)]));
    const page = await pageOf(sink);
    const counts = page.all('vesper_demo_died_total').map(({ labels, value }) => [labels, value]);
    expect(counts).toEqual([
      [{ guest: 'web1', signal: 'SIGKILL' }, 2],
      [{ guest: 'web1', signal: 'SIGSEGV' }, 1],
      [{ guest: 'web1', signal: '64' }, 1],
    ]);
    const which = { guest: 'web1', probe: 'demo', event: 'died' };
    expect(page.value('vesper_events_total', { ...which, severity: 'warning' })).toBe(4);
    expect(page.value('vesper_event_series', which)).toBe(3);
  });

  test('value fields become histograms in base units; other fields become nothing', async () => {
    const sink = newSink();
    const value = { role: 'value', type: 'u64', size: 8 } as const;
    const gone = compileDecoder(
      event(
        'gone',
        28,
        field({ ...value, name: 'took_ns', offset: 0, unit: 'nanoseconds' }),
        field({ ...value, name: 'anon_pages', offset: 8, unit: 'pages' }),
        field({ ...value, name: 'retries_count', offset: 16, unit: 'count' }),
        field({ name: 'pid', type: 'u32', offset: 24, size: 4, role: 'pid' }),
      ),
    );
    sink.deliver(batchOf(gone, [words(2_000_000, 0, 3, 0, 7, 0, 4711)]));
    const page = await pageOf(sink);
    const guest = { guest: 'web1' };
    expect(page.value('vesper_demo_gone_took_seconds_sum', guest)).toBeCloseTo(0.002, 12);
    expect(page.value('vesper_demo_gone_took_seconds_bucket', { ...guest, le: '0.001' })).toBe(0);
    expect(page.value('vesper_demo_gone_took_seconds_bucket', { ...guest, le: '0.005' })).toBe(1);
    expect(page.value('vesper_demo_gone_anon_bytes_sum', guest)).toBe(3 * 4096);
    expect(page.value('vesper_demo_gone_retries_count_value_count', guest)).toBe(1);
    expect(JSON.stringify(page.samples)).not.toMatch(/4711|pid/);
  });

  test('of a guest that is forgotten nothing is shown, and it begins anew', async () => {
    const sink = newSink();
    const died = compileDecoder(event('died', 4, signal));
    for (const guest of ['web1', 'db1']) sink.deliver(batchOf(died, [words(9), words(9)], 'demo', guest));
    sink.forget('uuid of web1');
    let page = await pageOf(sink);
    expect(JSON.stringify(page.samples)).not.toContain('web1');
    expect(page.value('vesper_demo_died_total', { guest: 'db1' })).toBe(2);
    sink.deliver(batchOf(died, [words(9)]));
    page = await pageOf(sink);
    expect(page.value('vesper_demo_died_total', { guest: 'web1' })).toBe(1);
  });

  test('latency: nothing from the future, and no infinity', async () => {
    const sink = newSink();
    sink.deliver(batchOf(compileDecoder(event('died', 4, signal)), [words(9), words(9), words(9)]));
    const page = await pageOf(sink);
    expect(page.value('vesper_event_latency_seconds_bucket', { le: '0.00005' })).toBe(1);
    expect(page.value('vesper_event_latency_seconds_bucket', { le: '10' })).toBe(2);
    expect(page.value('vesper_event_latency_seconds_sum')).toBeCloseTo(86_400.0003, 6);
  });

  test('rows of another length than declared are not counted', async () => {
    const sink = newSink();
    const died = compileDecoder(event('died', 4, signal));
    sink.deliver(batchOf(died, [words(9), words(9, 9), words(9)]));
    expect((await pageOf(sink)).value('vesper_demo_died_total')).toBe(2);
  });

  test('names that come to the same stay apart, and what VESPER itself shows is not touched', async () => {
    const sink = newSink(['vesper_guest_sessions_total']);
    sink.deliver(batchOf(compileDecoder(event('c', 4, signal)), [words(9)], 'a_b'));
    sink.deliver(batchOf(compileDecoder(event('b_c', 4, signal)), [words(9), words(9)], 'a'));
    sink.deliver(batchOf(compileDecoder(event('sessions', 4, signal)), [words(9)], 'guest'));
    const guestField = { ...signal, name: 'guest' };
    sink.deliver(batchOf(compileDecoder(event('moved', 4, guestField)), [words(9)]));
    const page = await pageOf(sink);
    expect(page.value('vesper_a_b_c_total')).toBe(1);
    expect(page.value('vesper_a_b_c_2_total')).toBe(2);
    expect(page.value('vesper_guest_sessions_2_total')).toBe(1);
    expect(page.value('vesper_demo_moved_total', { guest: 'web1', event_guest: 'SIGKILL' })).toBe(1);
  });

  test('after a reboot, and in a version that is laid out otherwise, the same labels go on in the same series', async () => {
    const sink = newSink();
    sink.deliver(batchOf(compileDecoder(event('died', 4, signal)), [words(9)]));
    sink.deliver(batchOf(compileDecoder(event('died', 4, signal)), [words(9)]));
    sink.deliver(batchOf(compileDecoder(event('died', 8, { ...signal, offset: 4 })), [words(0, 9)]));
    sink.deliver(batchOf(compileDecoder(event('died', 8, signal, text('comm', 4, 4))), [words(9, 0x61)]));
    const page = await pageOf(sink);
    expect(page.all('vesper_demo_died_total').map(({ labels, value }) => [labels, value])).toEqual([
      [{ guest: 'web1', signal: 'SIGKILL' }, 3],
      [{ guest: 'web1', signal: 'SIGKILL', comm: 'a' }, 1],
    ]);
    expect(page.value('vesper_events_total', { event: 'died' })).toBe(4);
  });
});

describe('what a guest writes', () => {
  const named = compileDecoder(event('named', 32, text('comm', 0, 32)));

  test('text of any kind is a label that Prometheus can read', async () => {
    const sink = newSink();
    const nasty = ['a"b\\c', 'line\nfeed\r', '\u0001\u007f\u0085', '} 1\nvesper_up 1', '', 'ünï', '\ud7ff€'];
    sink.deliver(
      batchOf(named, [
        ...nasty.map((content) => chars(content, 32)),
        chars(Uint8Array.of(0xff, 0xfe, 0xc3), 32),
        new Uint8Array(32).fill(0x22),
      ]),
    );
    const page = await pageOf(sink);
    expect(page.all('vesper_demo_named_total').map(({ labels }) => labels['comm'])).toEqual([
      'a"b\\c',
      'line\\x0afeed\\x0d',
      '\\x01\\x7f\\x85',
      '} 1\\x0avesper_up 1',
      '',
      'ünï',
      '\ud7ff€',
      '\ufffd\ufffd\ufffd',
      '"'.repeat(32),
    ]);
  });

  test('what stands behind the end of a text makes no series', async () => {
    const sink = newSink();
    const rest = (byte: number) => chars(Uint8Array.of(0x61, 0, byte, byte), 32);
    sink.deliver(batchOf(named, [rest(0), rest(1), rest(2)]));
    expect((await pageOf(sink)).value('vesper_demo_named_total', { comm: 'a' })).toBe(3);
  });

  test('bytes that differ and look the same are one series', async () => {
    const sink = newSink();
    sink.deliver(batchOf(named, [chars('\u0001', 32), chars('\\x01', 32)]));
    expect((await pageOf(sink)).value('vesper_demo_named_total', { comm: '\\x01' })).toBe(2);
  });

  test('a long text is cut', async () => {
    const sink = newSink();
    const long = compileDecoder(event('long', 512, text('path', 0, 512)));
    sink.deliver(batchOf(long, [chars('x'.repeat(500), 512)]));
    const [sample] = (await pageOf(sink)).all('vesper_demo_long_total');
    expect(sample?.labels['path']).toBe(`${'x'.repeat(127)}…`);
  });

  test('a million values: a limit of series, the rest is folded, all are counted; another guest notices nothing', async () => {
    const sink = newSink();
    const numbered = compileDecoder(event('numbered', 4, { ...signal, name: 'number', values: undefined }));
    const values = 1_000_000;
    for (let from = 0; from < values; from += 4_000)
      sink.deliver(
        batchOf(
          numbered,
          Array.from({ length: 4_000 }, (_, at) => words(from + at)),
        ),
      );
    sink.deliver(batchOf(numbered, [words(1), words(values)], 'demo', 'db1'));
    const page = await pageOf(sink);
    const name = 'vesper_demo_numbered_total';
    const web1 = { guest: 'web1' };
    expect(page.all(name, web1)).toHaveLength(256 + 1);
    expect(page.sum(name, web1)).toBe(values);
    expect(page.value(name, { ...web1, number: 'other' })).toBe(values - 256);
    expect(page.value(name, { ...web1, number: '255' })).toBe(1);
    expect(page.value('vesper_events_folded_total', web1)).toBe(values - 256);
    expect(page.value('vesper_event_series', web1)).toBe(256);
    expect(page.value('vesper_event_series_limit', web1)).toBe(256);
    expect(page.value(name, { guest: 'db1', number: String(values) })).toBe(1);
    expect(page.value('vesper_events_folded_total', { guest: 'db1' })).toBe(0);
  });

  test('events with values get fewer series: the page stays as small', async () => {
    const sink = newSink();
    const value = { role: 'value', type: 'u32', size: 4, unit: 'pages' } as const;
    const kill = compileDecoder(
      event(
        'kill',
        24,
        { ...signal, name: 'kind', values: undefined },
        ...[4, 8, 12, 16, 20].map((offset) => field({ ...value, name: `v${offset}_pages`, offset })),
      ),
    );
    const rows = Array.from({ length: 1_000 }, (_, kind) => words(kind, 1, 2, 3, 4, 5));
    sink.deliver(batchOf(kill, rows));
    const page = await pageOf(sink);
    expect(page.samples.length).toBeLessThan(2_048 + 200);
    expect(page.value('vesper_demo_kill_v20_bytes_sum', { kind: 'other' })).toBe(
      (1_000 - page.value('vesper_event_series_limit')) * 5 * 4096,
    );
  });

  test('a value that is called other is not mistaken for what was folded', async () => {
    const sink = newSink();
    sink.deliver(batchOf(named, [chars('other', 32)]));
    expect((await pageOf(sink)).value('vesper_events_folded_total')).toBe(0);
    sink.deliver(
      batchOf(
        named,
        Array.from({ length: 300 }, (_, at) => chars(String(at), 32)),
      ),
    );
    const page = await pageOf(sink);
    expect(page.value('vesper_events_folded_total')).toBe(300 - 255);
    expect(page.value('vesper_demo_named_total', { comm: 'other' })).toBe(300 - 255 + 1);
  });

  test('any bytes at all: the page can be read, and each row is counted once', async () => {
    const declaration = event(
      'any',
      48,
      field({ name: 'a', type: 'u8', offset: 0, size: 1 }),
      field({ name: 'b', type: 's16', offset: 2, size: 2 }),
      field({ name: 'c', type: 's64', offset: 8, size: 8 }),
      field({ name: 'd', type: 'u64', offset: 16, size: 8, role: 'value', unit: 'nanoseconds' }),
      text('e', 24, 7),
      text('f', 31, 17),
    );
    const payload = fc.uint8Array({ minLength: 48, maxLength: 48 });
    await fc.assert(
      fc.asyncProperty(fc.array(payload, { minLength: 1, maxLength: 400 }), async (payloads) => {
        const sink = newSink();
        sink.deliver(batchOf(compileDecoder(declaration), payloads));
        const page = await pageOf(sink);
        expect(page.sum('vesper_demo_any_total')).toBe(payloads.length);
        expect(page.sum('vesper_demo_any_d_seconds_count')).toBe(payloads.length);
      }),
      { numRuns: 50 },
    );
  });
});

test('a page of many samples is made in parts, and is one family', async () => {
  const samples = Array.from({ length: 5_000 }, (_, n) => ({ labels: { n: String(n) }, value: n }));
  const family = { name: 'vesper_n_total', type: 'counter', help: 'a\n# TYPE b', samples } as const;
  let turns = 0;
  const counting = setInterval(() => (turns += 1), 0);
  const families = Array.from({ length: 20 }, (_, at) => ({ ...family, name: `vesper_n${at}_total` }));
  const page = new MetricsPage(await renderPage(families));
  clearInterval(counting);
  expect(page.samples).toHaveLength(100_000);
  expect(turns).toBeGreaterThan(3);
});
