// SPDX-License-Identifier: Apache-2.0
#include "peer.h"

#include <sys/socket.h>

#include <cerrno>

#include "js_error.h"
#include "system_error.h"

namespace vesper::relay {

Napi::Value peer_process(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber()) throw js_error(env, "EINVAL", "a file descriptor is needed");
  const int fd = info[0].As<Napi::Number>().Int32Value();
  const pid_t pid = guarded(env, [&] {
    ucred peer{};
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
      throw SystemError(errno, "getsockopt", "cannot tell who is at the other end");
    }
    return peer.pid;
  });
  return Napi::Number::New(env, pid);
}

}  // namespace vesper::relay
