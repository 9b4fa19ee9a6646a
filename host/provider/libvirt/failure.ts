// SPDX-License-Identifier: Apache-2.0

/** libvirt's errors as this service tells them: what happened, to whom, and what to do. */

import { type ErrorCode, messageOf, VesperError } from '../../error.ts';
import { isLibvirtError } from './native.ts';
import { isSession } from './uri.ts';

/** An error of a call about a guest. */
export function guestFailure(guest: string, doing: string, thrown: unknown): VesperError {
  if (thrown instanceof VesperError) return thrown;
  const { code, advice } = meaningOf(thrown);
  const message = `${guest}: ${doing}: ${messageOf(thrown)}${advice}`;
  return new VesperError(code, message, { cause: thrown, data: { guest, libvirt: codeOf(thrown) } });
}

function meaningOf(thrown: unknown): { readonly code: ErrorCode; readonly advice: string } {
  switch (codeOf(thrown)) {
    case 'TIMEOUT':
      return { code: 'TIMEOUT', advice: ': its QEMU or libvirtd hangs' };
    case 'CLOSED':
      return { code: 'UNREACHABLE', advice: '' };
    case 'VIR_ERR_NO_DOMAIN':
      return { code: 'UNREACHABLE', advice: ': it does not run any more' };
    case 'VIR_ERR_ACCESS_DENIED':
    case 'VIR_ERR_OPERATION_DENIED':
    case 'VIR_ERR_AUTH_DENIED':
      return { code: 'PROVIDER', advice: ": run the service as root, or allow it in libvirt's policy" };
    default:
      return { code: 'PROVIDER', advice: '' };
  }
}

/** Why the daemon cannot be reached, for people. */
export function connectionProblem(uri: string, thrown: unknown): string {
  const text = messageOf(thrown);
  return `${uri}: ${text}${openAdvice(uri, text, codeOf(thrown))}`;
}

function openAdvice(uri: string, text: string, code: string | undefined): string {
  if (code === 'TIMEOUT') return ': libvirtd hangs: systemctl restart libvirtd (its guests go on)';
  if (/permission denied/i.test(text) || /^VIR_ERR_(AUTH|ACCESS)/.test(code ?? ''))
    return ': run the service as root, or as a user of the group libvirt';
  if (!/no such file|connection refused|connect socket/i.test(text)) return '';
  return isSession(uri)
    ? ': no libvirtd of this user runs: start libvirtd, or name another URI'
    : ': libvirtd does not run: systemctl start libvirtd (or virtqemud.socket)';
}

export const codeOf = (thrown: unknown): string | undefined =>
  isLibvirtError(thrown) ? thrown.code : undefined;
