// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vesper::libvirt {

// Initialises libvirt and starts the thread that runs its event loop: once a process, before the first connection is
// opened. Throws Failure.
void start_event_loop();

}  // namespace vesper::libvirt
