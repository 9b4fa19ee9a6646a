// SPDX-License-Identifier: Apache-2.0
#include <napi.h>

#include <cstring>
#include <string>

#include "pump.h"
#include "system_error.h"

namespace vesper::vsock {
namespace {

// call(cid, port, limitMs): number, a file descriptor.
Napi::Value call_guest(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  for (std::size_t i = 0; i < 3; ++i)
    if (!info[i].IsNumber()) throw Napi::TypeError::New(env, "a CID, a port and a time limit in ms are needed");
  try {
    return Napi::Number::New(env,
                             call(info[0].As<Napi::Number>().Uint32Value(), info[1].As<Napi::Number>().Uint32Value(),
                                  info[2].As<Napi::Number>().Int32Value()));
  } catch (const SystemError& failed) {
    Napi::Error error =
        Napi::Error::New(env, std::string(failed.syscall) + ": " + strerrordesc_np(failed.error_number));
    error.Set("errno", Napi::Number::New(env, failed.error_number));
    error.Set("syscall", Napi::String::New(env, failed.syscall));
    throw error;
  }
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("call", Napi::Function::New(env, call_guest, "call"));
  return exports;
}

NODE_API_MODULE(vsock, init)

}  // namespace
}  // namespace vesper::vsock
