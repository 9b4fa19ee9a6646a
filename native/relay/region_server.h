// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <memory>

namespace vesper::relay {

struct RegionOffer;

// JavaScript: new RegionServer(socketPath, regionPath, doorbellPath). Hands a region and its doorbell to a VMM that
// connects to the socket, in the protocol of QEMU's ivshmem server (docs/specs/ivshmem-spec.rst of QEMU): messages are
// 64-bit little-endian numbers, some with a file descriptor.
class RegionServer : public Napi::ObjectWrap<RegionServer> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit RegionServer(const Napi::CallbackInfo& info);

 private:
  Napi::Value serve(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  std::shared_ptr<RegionOffer> offer_;
};

// JavaScript: makeDoorbell(path). A named pipe, mode 0600.
void make_doorbell(const Napi::CallbackInfo& info);

}  // namespace vesper::relay
