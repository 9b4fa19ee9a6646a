// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <cstring>
#include <stdexcept>

#include "system_error.h"

namespace vesper::relay {

// An Error with `code`, and for a failed system call `errno` and `syscall`.
inline Napi::Error js_error(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

inline Napi::Error js_error(Napi::Env env, const SystemError& failed) {
  const char* name = strerrorname_np(failed.error_number);
  const std::string code = name == nullptr ? "EUNKNOWN" : name;
  Napi::Error error =
      js_error(env, code.c_str(),
               code + ": " + failed.what() + " (" + failed.syscall + ": " + strerrordesc_np(failed.error_number) + ")");
  error.Set("errno", Napi::Number::New(env, failed.error_number));
  error.Set("syscall", Napi::String::New(env, failed.syscall));
  return error;
}

// Runs `body`, turning C++ exceptions into JavaScript ones.
template <typename Body>
auto guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const SystemError& failed) {
    throw js_error(env, failed);
  } catch (const std::invalid_argument& wrong) {
    throw js_error(env, "EINVAL", wrong.what());
  } catch (const std::bad_alloc&) {
    throw js_error(env, "ENOMEM", "out of memory");
  }
}

}  // namespace vesper::relay
