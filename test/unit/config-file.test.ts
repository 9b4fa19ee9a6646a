// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from 'vitest';
import { parseConfig, readConfigFile } from '../../host/service/config-file.ts';

const parse = (...lines: readonly string[]) => parseConfig(lines.join('\n'), 'v.yaml');

describe('a configuration', () => {
  test('with everything that may stand in it', () => {
    const config = parse(
      'providers:',
      '  qemu:',
      '    monitors: { web1: /run/vms/web1.qmp }',
      '    folders: [/run/vms, /run/more]',
      'directories: { run: /run/v, state: /var/v, regions: /dev/shm, catalogue: [/usr/lib/v] }',
      'api: { group: vesper, mode: 0640 }',
      'region: { size: 2 MiB }',
      'relay: { backend: guest-pages }',
      'metrics: { listen: "[::1]:9787" }',
      'black_box: { keep: 36 h }',
      'log: { level: debug }',
      'probes:',
      '  - guest: web*',
      '    attach:',
      '      signal: { signals: "SIGKILL,SIGSEGV" }',
      '      oom:',
    );
    expect(config).toEqual({
      providers: {
        qemu: { monitors: { web1: '/run/vms/web1.qmp' }, vsock: {}, folders: ['/run/vms', '/run/more'] },
      },
      directories: { run: '/run/v', state: '/var/v', regions: '/dev/shm', catalogue: ['/usr/lib/v'] },
      api: { group: 'vesper', mode: 0o640 },
      region: { size: 2 << 20 },
      relay: { backend: 'guest-pages' },
      metrics: { listen: '[::1]:9787' },
      black_box: { keep: 36 * 3_600_000 },
      log: { level: 'debug' },
      probes: [
        {
          guest: 'web*',
          probes: [
            { name: 'signal', parameters: { signals: 'SIGKILL,SIGSEGV' }, where: 'v.yaml:15' },
            { name: 'oom', parameters: {}, where: 'v.yaml:16' },
          ],
        },
      ],
    });
  });

  test.each([
    [['providers:', '  libvirt:'], {}],
    [['providers: { libvirt: { uri: qemu:///session } }'], { uri: 'qemu:///session' }],
    [['providers: { libvirt: { guests: ["web*", db] } }'], { guests: ['web*', 'db'] }],
  ])('libvirt: %j', (lines, libvirt) => {
    expect(parse(...lines).providers).toEqual({ libvirt });
  });

  test('that is empty leaves everything as it is by default', () => {
    const nothing = {
      providers: {},
      directories: {},
      api: {},
      region: {},
      relay: {},
      metrics: {},
      black_box: {},
      log: {},
      probes: [],
    };
    expect(parse('')).toEqual(nothing);
    expect(parse('# nothing', '---')).toEqual(nothing);
    expect(parse('log:', '  # level: info', 'probes:')).toEqual(nothing);
  });

  test('values are the text that was written', () => {
    const [rule] = parse(
      'probes:',
      '- guest: 42',
      '  attach: { p: { a: 010, b: yes, c: 1e3, d: 0xff, e: "" } }',
    ).probes;
    expect(rule).toMatchObject({
      guest: '42',
      probes: [{ parameters: { a: '010', b: 'yes', c: '1e3', d: '0xff', e: '' } }],
    });
  });

  test('rules for the cluster', () => {
    const { pacemaker } = parse(
      'pacemaker:',
      '  node: any',
      '  vms: { web1: vm-web1 }',
      '  nodes: { web1: web1-node }',
      '  cooldown: 1 min',
      '  rules:',
      '    - guest: web*',
      '      process: httpd',
      '    - guest: db1',
      '      events: [silence, mce.seen]',
      '      resource: db',
      '      action: attribute',
      '      second_sign: yes',
      '      fields: { bank: 3 }',
    );
    expect(pacemaker?.settings).toEqual({
      node: 'any',
      vms: { web1: 'vm-web1' },
      nodes: { web1: 'web1-node' },
      cooldownMs: 60_000,
      callsPerMinute: 10,
      keepMs: 900_000,
      dumpMs: 300_000,
      rules: [
        {
          guest: 'web*',
          events: ['crash', 'oom'],
          process: 'httpd',
          fields: {},
          action: 'fail',
          secondSign: false,
          where: 'v.yaml:7',
        },
        {
          guest: 'db1',
          events: ['silence', 'mce.seen'],
          resource: 'db',
          fields: { bank: '3' },
          action: 'attribute',
          secondSign: true,
          where: 'v.yaml:9',
        },
      ],
    });
    expect(parse('pacemaker: {}').pacemaker?.settings.rules).toEqual([]);
  });

  test.each([
    [
      ['provider: {}'],
      'v.yaml:1:1: provider: unknown key: did you mean providers? Here may stand providers, directories, api, region, relay, metrics, black_box, log, probes, pacemaker',
    ],
    [
      ['log:', '  levle: info'],
      'v.yaml:2:3: log.levle: unknown key: did you mean level? Here may stand level',
    ],
    [
      ['providers:', '  qemu: { folder: [/a] }'],
      'v.yaml:2:11: providers.qemu.folder: unknown key: did you mean folders? Here may stand monitors, vsock, folders',
    ],
    [
      ['xyz: 1'],
      'v.yaml:1:1: xyz: unknown key: Here may stand providers, directories, api, region, relay, metrics, black_box, log, probes, pacemaker',
    ],
    [
      ['probes:', '  - guest: a', '    atach: { }'],
      'v.yaml:2:5: probes.0.attach: is missing: write a mapping: lines of "key: value"\nv.yaml:3:5: probes.0.atach: unknown key: did you mean attach? Here may stand guest, attach',
    ],
    [
      ['log: { level: loud }'],
      'v.yaml:1:8: log.level: "loud" is not allowed: write one of trace, debug, info, warn, error, fatal, silent',
    ],
    [
      ['region:', '  size: 3 MiB'],
      'v.yaml:2:3: region.size: "3 MiB" is not allowed: write a power of two from 64 KiB to 1 GiB, such as "2 MiB" or 2097152',
    ],
    [['region: { size: 2 GiB }'], /write a power of two from 64 KiB to 1 GiB/],
    [['black_box: { keep: 24 }'], /"24" is not allowed: write a number with s, min, h or d/],
    [['api: { mode: 0999 }'], /api.mode: "0999" is not allowed: write three octal digits/],
    [['directories: { run: here }'], /directories.run: "here" is not allowed: write a path from the root/],
    [
      ['providers: { qemu: { folders: /run/vms } }'],
      'v.yaml:1:22: providers.qemu.folders: write a list: [a, b], or lines that begin with "- " here',
    ],
    [
      ['providers:', '  libvirt: { url: x }'],
      'v.yaml:2:14: providers.libvirt.url: unknown key: did you mean uri? Here may stand uri, guests',
    ],
    [['providers: [qemu]'], 'v.yaml:1:1: providers: write a mapping: lines of "key: value" here'],
    [['log: { level: [info] }'], 'v.yaml:1:8: log.level: write one value here'],
    [
      ['pacemaker:', '  rules:', '    - guest: a', '      proces: b'],
      /\nv.yaml:4:7: pacemaker.rules.0.proces: unknown key: did you mean process\? Here may stand guest, events, process, cgroup, unit, pid_file, fields, resource, action, second_sign$/,
    ],
    [
      ['pacemaker:', '  rules:', '    - guest: a'],
      'v.yaml:3:7: pacemaker.rules.0: name a process, a unit, a pid_file, or events: a list of crash, oom, panic, silence or PROBE.EVENT',
    ],
    [
      ['pacemaker: { rules: [{ guest: a, events: [hang] }] }'],
      'v.yaml:1:43: pacemaker.rules.0.events.0: "hang" is not allowed: write one of crash, oom, panic, silence, or PROBE.EVENT',
    ],
    [
      ['pacemaker: { rules: [{ guest: a, process: b, action: kill }] }'],
      /write one of fail, fence, attribute, record/,
    ],
    [
      ['pacemaker: { rules: [{ guest: a, unit: b, resource: c, action: fence }] }'],
      'v.yaml:1:22: pacemaker.rules.0: fence is about the node that the guest is: leave resource out, or fail it',
    ],
    [['pacemaker: { vms: { a: "-r x" } }'], /write a name as the cluster has it/],
    [['just a sentence'], 'v.yaml:1:1: write a mapping: lines of "key: value" here'],
    [
      ['probes:', '- guest: a', '  attach: { ../evil.ko: }'],
      /v.yaml:3:13: probes.0.attach...\/evil.ko: "..\/evil.ko" is not allowed: write the name of a probe/,
    ],
    [['log: { level: info }', 'log: { level: debug }'], /^v.yaml:2:1: .*unique/],
    [['log: { level: info'], /^v.yaml:1:\d+: /],
    [['log: { level: !secret info }'], /^v.yaml:1:15: .*secret/],
    [['log: { level: loud }', 'api: { mode: x }'], /^v.yaml:1:8: .*\nv.yaml:2:8: [^\n]*$/],
  ])('with a mistake is refused with file, line, column, key and what is allowed: %j', (lines, sentence) => {
    const parsing = () => parse(...lines);
    expect(parsing).toThrow(expect.objectContaining({ code: 'USAGE' }));
    if (typeof sentence === 'string') expect(parsing).toThrow(expect.objectContaining({ message: sentence }));
    else expect(parsing).toThrow(sentence);
  });

  test('that is not there is not found', () => {
    expect(() => readConfigFile('/nowhere/v.yaml')).toThrow(
      expect.objectContaining({ code: 'NOT_FOUND', message: expect.stringContaining('/nowhere/v.yaml') }),
    );
  });
});
