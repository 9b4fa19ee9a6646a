// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace vesper::libvirt {

// Starts a thread that nobody waits for: it may hang in a call for as long as a daemon does. Signals are left to the
// threads of Node. Throws std::system_error.
void start_thread(const char* name, std::function<void()> body);

}  // namespace vesper::libvirt
