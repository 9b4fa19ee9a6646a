// SPDX-License-Identifier: Apache-2.0

/**
 * A channel over vsock, two ways: hybrid vsock, where the hypervisor offers a unix socket that wants to be told the port
 * (Firecracker, Cloud Hypervisor, vhost-user backends); and the host kernel's own sockets, through an addon which speaks alike.
 */

import { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import { messageOf, VesperError } from '../error.ts';
import { vsockPort } from '../wire/message.ts';
import type { Channel } from './channel.ts';
import { channelOver, connectSocket, type UnixSocketOptions } from './unix-socket.ts';
import { loadVsockAddon, type VsockAddon } from './vsock-addon.ts';

export interface VsockOptions extends UnixSocketOptions {
  /** Where the frontend listens. */
  readonly port?: number;
}

const defaultLimitMs = 3_000;
/** `OK 4294967295` is the longest there is. */
const lineMaxBytes = 32;

/** Through the unix socket of a hypervisor that does vsock itself. Throws UNREACHABLE, TIMEOUT or PROTOCOL. */
export async function connectHybridVsock(path: string, options: VsockOptions = {}): Promise<Channel> {
  const { port = vsockPort, timeLimitMs = defaultLimitMs } = options;
  const deadline = performance.now() + timeLimitMs;
  const description = options.description ?? `vsock port ${port} (${path})`;
  const socket = await connectSocket(path, timeLimitMs);
  socket.on('error', () => {}); // told by its end, too
  socket.write(`CONNECT ${port}\n`);
  await accepted(socket, description, Math.max(1, deadline - performance.now()));
  return channelOver(socket, description, options);
}

/** Through the host's kernel, to a guest with a CID (vhost-vsock). Throws HOST, UNREACHABLE, TIMEOUT or PROTOCOL. */
export async function connectVsock(
  cid: number,
  options: VsockOptions = {},
  addon: VsockAddon = loadVsockAddon(),
): Promise<Channel> {
  const { port = vsockPort, timeLimitMs = defaultLimitMs } = options;
  const description = options.description ?? `vsock port ${port} of CID ${cid}`;
  let socket: Socket;
  try {
    socket = new Socket({ fd: addon.call(cid, port, timeLimitMs), readable: true, writable: true });
  } catch (cause) {
    const message = `${description}: this host has no vsock sockets (${messageOf(cause)}): run "modprobe vhost_vsock"`;
    throw new VesperError('HOST', message, { cause });
  }
  socket.on('error', () => {}); // told by its end, too
  // The addon's own limit tells more, where it holds.
  await accepted(socket, description, timeLimitMs + 500);
  return channelOver(socket, description, options);
}

/** Waits for the line that says that the guest took the call; what is behind it stays in the socket. */
async function accepted(socket: Socket, description: string, timeLimitMs: number): Promise<void> {
  let line: string;
  try {
    line = await firstLine(socket, description, timeLimitMs);
    if (!/^OK \d{1,10}$/.test(line)) throw refusal(line, description);
  } catch (thrown) {
    socket.destroy();
    throw thrown;
  }
}

function refusal(line: string, description: string): VesperError {
  const errno = /^NO ([1-9]\d{0,3})$/.exec(line)?.[1];
  if (errno === undefined) {
    return new VesperError(
      'PROTOCOL',
      `${description}: instead of "OK <number>" came ${JSON.stringify(line)}`,
    );
  }
  return new VesperError(
    'UNREACHABLE',
    `${description}: no frontend listens (${getSystemErrorName(-Number(errno))}): load vesper.ko in the guest, and its driver vmw_vsock_virtio_transport`,
    { data: { errno: Number(errno) } },
  );
}

function firstLine(socket: Socket, description: string, timeLimitMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const settle = (error?: VesperError) => {
      clearTimeout(timer);
      socket.removeListener('readable', read);
      socket.removeListener('close', closed);
      socket.removeListener('end', closed);
      if (error === undefined) resolve(text);
      else reject(error);
    };
    const read = () => {
      for (;;) {
        const byte = socket.read(1) as Buffer | null;
        if (byte === null) return;
        if (byte[0] === 0x0a) return settle();
        text += byte.toString('latin1');
        if (text.length >= lineMaxBytes) return settle(refusal(text, description));
      }
    };
    const closed = () => {
      const message = `${description}: no frontend listens: load vesper.ko in the guest, and its driver vmw_vsock_virtio_transport`;
      settle(new VesperError('UNREACHABLE', message));
    };
    const timer = setTimeout(() => {
      const message = `${description}: the call was not answered within ${Math.round(timeLimitMs)} ms`;
      settle(new VesperError('TIMEOUT', message, { data: { timeLimitMs } }));
    }, timeLimitMs);
    socket.on('readable', read);
    socket.once('end', closed);
    socket.once('close', closed);
  });
}
