// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vesper::vsock {

// A system call failed.
struct SystemError {
  int error_number;
  const char* syscall;
};

}  // namespace vesper::vsock
