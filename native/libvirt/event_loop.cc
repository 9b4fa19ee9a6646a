// SPDX-License-Identifier: Apache-2.0
#include "event_loop.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <mutex>

#include "failure.h"
#include "reference.h"
#include "thread.h"

namespace vesper::libvirt {

void start_event_loop() {
  // A call that fails leaves the flag unset: the next one tries again.
  static std::once_flag started;
  std::call_once(started, [] {
    checked(virInitialize(), "virInitialize");
    // Errors go where the call was made, not to stderr.
    virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});
    checked(virEventRegisterDefaultImpl(), "virEventRegisterDefaultImpl");
    start_thread("libvirt-events", [] {
      while (virEventRunDefaultImpl() == 0) {
      }
    });
  });
}

}  // namespace vesper::libvirt
