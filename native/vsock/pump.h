// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace vesper::vsock {

// Calls a guest and carries bytes both ways between it and a unix socket, of which the other end is returned: Node can
// drive that one, and knows no sockets of this family. The first line on it tells how the call went, as with hybrid
// vsock: "OK <own port>\n", or "NO <errno>\n" and the end. Everything else happens on a thread of its own, which ends
// with either side. Throws SystemError.
int call(std::uint32_t cid, std::uint32_t port, int limit_ms);

}  // namespace vesper::vsock
