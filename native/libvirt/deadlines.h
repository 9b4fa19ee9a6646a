// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "job.h"

namespace vesper::libvirt {

// The time limits of all calls of the process, kept by one thread that never calls libvirt.
class Deadlines {
 public:
  // Never destroyed: its thread runs until the process ends.
  static Deadlines& instance();

  void add(const std::shared_ptr<Job>& job);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Clock::time_point, std::weak_ptr<Job>> jobs_;
  bool running_ = false;
};

}  // namespace vesper::libvirt
