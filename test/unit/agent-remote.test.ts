// SPDX-License-Identifier: Apache-2.0

/** What the guest's end of the agent's port may send: the real agent is in the integration tests. */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { ErrorCode } from '../../host/error.ts';
import { AgentRemote } from '../../host/install/agent-remote.ts';

interface Question {
  readonly execute: string;
  readonly arguments: { readonly id?: number };
}

/** An agent that answers as it likes; undefined hangs up. Its socket. */
function agentSaying(answer: (question: Question) => string | undefined): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'vesper-test-'));
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    let half = '';
    socket
      .on('error', () => undefined)
      .setEncoding('latin1')
      .on('data', (text: string) => {
        const lines = (half + text).split('\n');
        half = lines.pop() ?? '';
        for (const line of lines) {
          const said = answer(JSON.parse(line.slice(line.indexOf('{'))) as Question);
          if (said === undefined) socket.destroy();
          else socket.write(Buffer.from(said, 'latin1'));
        }
      });
  });
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(folder, { recursive: true });
  });
  const path = join(folder, 'agent');
  return new Promise((resolve) => server.listen(path, () => resolve(path)));
}

const line = (value: unknown): string => `${JSON.stringify(value)}\n`;
const commands = (enabled: boolean) => ({
  return: {
    supported_commands: ['guest-exec', 'guest-exec-status'].map((name) => ({ name, enabled })),
  },
});

/** Syncs, with what was left over before it, and says what it can. */
const polite =
  (then: (question: Question) => string | undefined, before = '', enabled = true) =>
  (question: Question): string | undefined => {
    switch (question.execute) {
      case 'guest-sync-delimited':
        return `${before}\xff${line({ return: question.arguments.id })}`;
      case 'guest-info':
        return line(commands(enabled));
      default:
        return then(question);
    }
  };

const connect = async (answer: (question: Question) => string | undefined): Promise<AgentRemote> => {
  const remote = await AgentRemote.connect(await agentSaying(answer));
  onTestFinished(() => remote.close());
  return remote;
};

const inTime = { timeoutMs: 30_000 };

test('what another client left, and what the agent thinks of it, is passed over', async () => {
  const left = `${line({ error: { class: 'GenericError', desc: 'JSON parse error' } })}${line({ return: 1 })}{"return": {"half`;
  const remote = await connect(
    polite(
      ({ execute }) =>
        execute === 'guest-exec'
          ? line({ return: { pid: 7 } })
          : line({ return: { exited: true, exitcode: 3, 'out-data': 'YQ1iCg==', 'err-data': 'G1tL' } }),
      left,
    ),
  );
  expect(await remote.run('true', inTime)).toEqual({ status: 3, stdout: 'a\nb\n', stderr: '?[K' });
});

test('an agent that may not run commands', async () => {
  await expect(connect(polite(() => undefined, '', false))).rejects.toMatchObject({
    code: 'REFUSED',
    message: expect.stringContaining('systemctl restart qemu-guest-agent') as unknown,
  });
});

const misbehaviour: readonly [string, (question: Question) => string | undefined, ErrorCode][] = [
  ['hangs up', () => undefined, 'UNREACHABLE'],
  ['talks no JSON', () => 'login: \n', 'PROTOCOL'],
  ['refuses', () => line({ error: { desc: '\x1b[2Jno' } }), 'REFUSED'],
  ['sends a line without end', () => 'x'.repeat(9 << 20), 'PROTOCOL'],
];

test.for(misbehaviour)('one that %s', async ([, answer, code]) => {
  const remote = await connect(polite(answer));
  const thrown: unknown = await remote.run('true', inTime).catch((error: unknown) => error);
  expect(thrown).toMatchObject({ code });
  expect(String(thrown)).not.toContain('\x1b');
});

test('a socket that is not there', async () => {
  await expect(AgentRemote.connect('/run/vesper-test/none')).rejects.toMatchObject({ code: 'UNREACHABLE' });
});
