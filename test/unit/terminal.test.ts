// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';
import { printable, Terminal } from '../../host/cli/terminal.ts';
import { displayWidth, wrapped } from '../../host/cli/width.ts';

function printed(
  work: (terminal: Terminal) => void,
  tty: { columns?: number } | undefined,
  env = {},
): string {
  let text = '';
  const write = (part: string) => {
    text += part;
  };
  work(new Terminal({ write, isTTY: tty !== undefined, columns: tty?.columns }, env));
  return text;
}

const table = (terminal: Terminal) =>
  terminal.table(
    [{ title: 'PROBE' }, { title: 'LOST', align: 'right' }, { title: 'DOC', flexible: true }],
    [
      [terminal.style('green', 'signal'), '7', 'Signals and the deaths they cause'],
      ['日本', '1024', ''],
    ],
    { indent: 1 },
  );

describe('a table', () => {
  it('is plain, whole and aligned in a pipe', () => {
    expect(printed(table, undefined)).toBe(
      [' PROBE   LOST  DOC', ' signal     7  Signals and the deaths they cause', ' 日本    1024', ''].join(
        '\n',
      ),
    );
  });

  it('breaks its flexible column where the terminal ends', () => {
    const text = printed(table, { columns: 34 }, { NO_COLOR: '1' });
    expect(text).toBe(
      [
        ' PROBE   LOST  DOC',
        ' signal     7  Signals and the',
        '               deaths they cause',
        ' 日本    1024',
        '',
      ].join('\n'),
    );
    for (const line of text.split('\n')) expect(displayWidth(line)).toBeLessThanOrEqual(34);
  });

  it('has colour on a terminal only, and not with NO_COLOR or a dumb one', () => {
    expect(printed(table, { columns: 80 })).toContain('\x1b[32msignal\x1b[39m');
    for (const env of [{ NO_COLOR: '1' }, { TERM: 'dumb' }])
      expect(printed(table, { columns: 80 }, env)).not.toContain('\x1b');
  });
});

describe('text', () => {
  it('counts columns as terminals do', () => {
    expect(['abc', '\x1b[1mabc\x1b[22m', '日本', 'e\u0301', '👩‍👩‍👧', '…'].map(displayWidth)).toEqual([
      3, 3, 4, 1, 2, 1,
    ]);
  });

  it('breaks at blanks, and inside what is longer than a line', () => {
    expect(wrapped('one two three', 7)).toEqual(['one two', 'three']);
    expect(wrapped('a 123456789', 4)).toEqual(['a', '1234', '5678', '9']);
    expect(wrapped('', 4)).toEqual(['']);
  });

  it('from a guest cannot steer the terminal', () => {
    expect(printable('\x1b[2Jgone\r\n\u202etxt.exe\u0085')).toBe(
      '\\x1b[2Jgone\\x0d\\x0a\\u{202e}txt.exe\\x85',
    );
  });

  it('of JSON keeps 64-bit numbers and bytes whole', () => {
    expect(
      printed((terminal) => terminal.jsonLine({ n: 2n ** 63n, b: new Uint8Array([1, 255]) }), undefined),
    ).toBe('{"n":"9223372036854775808","b":"01ff"}\n');
  });
});
