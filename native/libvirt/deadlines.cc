// SPDX-License-Identifier: Apache-2.0
#include "deadlines.h"

#include "thread.h"

namespace vesper::libvirt {

Deadlines& Deadlines::instance() {
  static auto* const deadlines = new Deadlines;
  return *deadlines;
}

void Deadlines::add(const std::shared_ptr<Job>& job) {
  const std::lock_guard lock(mutex_);
  if (!running_) {
    start_thread("libvirt-limits", [this] { run(); });
    running_ = true;
  }
  const auto added = jobs_.emplace(Clock::now() + job->limit(), job);
  if (added == jobs_.begin()) changed_.notify_one();
}

void Deadlines::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!jobs_.empty() && jobs_.begin()->second.expired()) jobs_.erase(jobs_.begin());
    if (jobs_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto first = jobs_.begin()->first;
    if (Clock::now() < first) {
      changed_.wait_until(lock, first);
      continue;
    }
    const auto job = jobs_.begin()->second.lock();
    jobs_.erase(jobs_.begin());
    if (job == nullptr) continue;
    lock.unlock();
    job->expire();
    lock.lock();
  }
}

}  // namespace vesper::libvirt
