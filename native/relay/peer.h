// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

namespace vesper::relay {

// JavaScript: peerProcess(fd). The process that listened at the other end of a connected unix socket.
Napi::Value peer_process(const Napi::CallbackInfo& info);

}  // namespace vesper::relay
