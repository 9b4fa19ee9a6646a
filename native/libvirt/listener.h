// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <initializer_list>

namespace vesper::libvirt {

// Calls a function of JavaScript's. What it throws is an uncaught exception, and no reason to leave undone what the
// caller has yet to do.
inline void tell(const Napi::Function& listener, std::initializer_list<napi_value> arguments) {
  try {
    listener.Call(arguments);
  } catch (const Napi::Error& thrown) {
    napi_fatal_exception(listener.Env(), thrown.Value());
  }
}

}  // namespace vesper::libvirt
