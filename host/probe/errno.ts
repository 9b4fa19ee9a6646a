// SPDX-License-Identifier: Apache-2.0

/**
 * Names and meanings of the guest kernel's errnos. Not node's own table: the host's libuv lacks those of module loading.
 * Source: include/uapi/asm-generic/errno{-base,}.h; x86, arm64, riscv and s390 use these numbers.
 */

const errnos: Readonly<Record<number, readonly [name: string, meaning: string]>> = {
  1: ['EPERM', 'operation not permitted'],
  2: ['ENOENT', 'no such entry'],
  3: ['ESRCH', 'no such process'],
  4: ['EINTR', 'interrupted'],
  5: ['EIO', 'input/output error'],
  6: ['ENXIO', 'no such device or address'],
  7: ['E2BIG', 'argument list too long'],
  8: ['ENOEXEC', 'not a module this kernel can load'],
  9: ['EBADF', 'bad file descriptor'],
  11: ['EAGAIN', 'try again'],
  12: ['ENOMEM', 'out of memory'],
  13: ['EACCES', 'permission denied'],
  14: ['EFAULT', 'bad address'],
  16: ['EBUSY', 'busy'],
  17: ['EEXIST', 'exists already'],
  19: ['ENODEV', 'no such device'],
  22: ['EINVAL', 'invalid argument'],
  25: ['ENOTTY', 'not supported by the device'],
  26: ['ETXTBSY', 'text busy'],
  27: ['EFBIG', 'too large'],
  28: ['ENOSPC', 'no space left'],
  32: ['EPIPE', 'broken pipe'],
  33: ['EDOM', 'out of domain'],
  34: ['ERANGE', 'out of range'],
  36: ['ENAMETOOLONG', 'name too long'],
  38: ['ENOSYS', 'not implemented'],
  61: ['ENODATA', 'no data'],
  65: ['ENOPKG', 'package not installed'],
  71: ['EPROTO', 'protocol error'],
  74: ['EBADMSG', 'bad message'],
  75: ['EOVERFLOW', 'value too large'],
  84: ['EILSEQ', 'illegal byte sequence'],
  90: ['EMSGSIZE', 'message too long'],
  93: ['EPROTONOSUPPORT', 'protocol not supported'],
  95: ['EOPNOTSUPP', 'operation not supported'],
  103: ['ECONNABORTED', 'connection aborted'],
  107: ['ENOTCONN', 'not connected'],
  108: ['ESHUTDOWN', 'shut down'],
  110: ['ETIMEDOUT', 'timed out'],
  111: ['ECONNREFUSED', 'connection refused'],
  113: ['EHOSTUNREACH', 'unreachable'],
  114: ['EALREADY', 'already in progress'],
  116: ['ESTALE', 'stale'],
  117: ['EUCLEAN', 'structure needs cleaning'],
  121: ['EREMOTEIO', 'remote input/output error'],
  125: ['ECANCELED', 'cancelled'],
  126: ['ENOKEY', 'required key not available'],
  127: ['EKEYEXPIRED', 'key expired'],
  128: ['EKEYREVOKED', 'key revoked'],
  129: ['EKEYREJECTED', 'key rejected'],
  517: ['EPROBE_DEFER', 'asked to retry later'],
  524: ['ENOTSUPP', 'operation not supported'],
};

/** `ENOENT` for -2 (or 2); `errno 1234` for what has no name here. */
export function errnoName(error: number): string {
  return errnos[Math.abs(error)]?.[0] ?? `errno ${Math.abs(error)}`;
}

/** `no such entry (ENOENT)`. */
export function errnoText(error: number): string {
  const known = errnos[Math.abs(error)];
  return known === undefined ? errnoName(error) : `${known[1]} (${known[0]})`;
}
