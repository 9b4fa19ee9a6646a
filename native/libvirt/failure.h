// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace vesper::libvirt {

// Why a call failed; becomes a JavaScript Error of the same fields.
struct Failure : std::runtime_error {
  // One of our own: TIMEOUT, CLOSED, STREAM_OVERRUN, STREAM_BUSY.
  Failure(const char* own_code, const std::string& message) : std::runtime_error(message), code(own_code) {}

  // What libvirt said last on this thread. To be taken before anything is freed: freeing may overwrite it.
  static Failure last(const char* call);

  Napi::Error to_js(Napi::Env env) const;

  std::string code;
  // The function of libvirt that failed; nullptr for our own codes, and the rest is without meaning then.
  const char* call = nullptr;
  int libvirt_code = 0;
  int libvirt_domain = 0;
};

// Throws where a function of libvirt returned its -1.
inline int checked(int result, const char* call) {
  if (result < 0) throw Failure::last(call);
  return result;
}

template <typename Pointer>
Pointer* checked(Pointer* result, const char* call) {
  if (result == nullptr) throw Failure::last(call);
  return result;
}

// A text that libvirt allocated.
inline std::string taken_text(char* result, const char* call) {
  char* text = checked(result, call);
  std::string copy(text);
  std::free(text);
  return copy;
}

}  // namespace vesper::libvirt
