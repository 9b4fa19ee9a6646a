// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "region_reader.h"

namespace vesper::relay {

// One thread that looks after all regions:
//
//            data seen                 done()
//   polling -----------> announced ------------> polling
//      |  quiet: arm()       ^
//      v                     | wake(): a doorbell came, the caller drains
//    asleep -----------------+
//
// With nothing to poll the thread sleeps without a time limit.
class Poller {
 public:
  struct Timing {
    std::chrono::nanoseconds shortest{200'000};
    std::chrono::nanoseconds longest{500'000};
    std::chrono::nanoseconds quiet{5'000'000};
  };

  // `notify` runs on the thread of the poller, holding no lock.
  Poller(Timing timing, std::function<void()> notify);
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  void add(std::shared_ptr<RegionReader> region, std::uint32_t id);
  // After the return the thread no longer touches the region.
  void remove(const RegionReader* region);
  // The caller is about to drain the region and calls done() when nothing is left.
  void wake(const RegionReader* region);
  void done(const RegionReader* region);
  // Ids announced since the last call.
  std::vector<std::uint32_t> take_ready();
  // Regions that are not asleep.
  std::size_t awake();
  // Idempotent; joins the thread.
  void stop();

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { kPolling, kAnnounced, kAsleep };
  struct Entry {
    std::shared_ptr<RegionReader> region;
    std::uint32_t id;
    State state;
    bool ready;
    Clock::time_point last_data;
  };

  void run();
  Entry* find(const RegionReader* region);

  const Timing timing_;
  const std::function<void()> notify_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Entry> entries_;
  bool stopping_ = false;
  // The thread waits for changed_ without a time limit.
  bool resting_ = false;
  std::thread thread_;
};

}  // namespace vesper::relay
