// SPDX-License-Identifier: Apache-2.0
#include "thread.h"

#include <pthread.h>
#include <signal.h>

#include <thread>

namespace vesper::libvirt {
namespace {

// Threads inherit the mask of the one that starts them.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &former_, nullptr); }

 private:
  sigset_t former_;
};

}  // namespace

void start_thread(const char* name, std::function<void()> body) {
  const AllSignalsBlocked blocked;
  std::thread([name, body = std::move(body)] {
    pthread_setname_np(pthread_self(), name);
    body();
  }).detach();
}

}  // namespace vesper::libvirt
