// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <variant>

#include "data.h"
#include "failure.h"

namespace vesper::libvirt {

using Clock = std::chrono::steady_clock;
using Outcome = std::variant<Data, Failure>;

// One call of libvirt: waits in a pool, runs on one of its threads, and is settled once, by its end or by its time
// limit, whichever comes first. A call cannot be taken back: one that runs too long is left to end, its result is
// dropped.
//
//   queued ──run──▶ running ──end──▶ settled
//     │                └─────limit──▶ abandoned ──end──▶ settled
//     └──limit, cancel──▶ settled
class Job : public std::enable_shared_from_this<Job> {
 public:
  using Work = std::function<Data()>;
  // Called on whichever thread settles it.
  using Settle = std::function<void(Outcome)>;

  Job(Work work, Settle settle, std::chrono::milliseconds limit)
      : work_(std::move(work)), settle_(std::move(settle)), limit_(limit) {}

  std::chrono::milliseconds limit() const { return limit_; }

  // `abandoned` counts the calls that go on without anybody waiting.
  void run(std::atomic<int>& abandoned);
  void expire();
  void cancel(const Failure& why);

 private:
  enum class State { kQueued, kRunning, kAbandoned, kSettled };

  bool take(State from, State to);
  void settle(Outcome outcome);

  std::mutex mutex_;
  State state_ = State::kQueued;
  std::atomic<int>* abandoned_ = nullptr;
  Work work_;
  Settle settle_;
  const std::chrono::milliseconds limit_;
};

}  // namespace vesper::libvirt
