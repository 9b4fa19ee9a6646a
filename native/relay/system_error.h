// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace vesper::relay {

// A system call failed; becomes a JavaScript Error with code, errno and syscall.
struct SystemError : std::runtime_error {
  SystemError(int error, const char* call, const std::string& what)
      : std::runtime_error(what), error_number(error), syscall(call) {}
  int error_number;
  const char* syscall;
};

}  // namespace vesper::relay
