// SPDX-License-Identifier: Apache-2.0
#include "job.h"

#include <new>
#include <utility>

namespace vesper::libvirt {
namespace {

Outcome outcome_of(const Job::Work& work) {
  try {
    return work();
  } catch (const Failure& failure) {
    return failure;
  } catch (const std::bad_alloc&) {
    return Failure("VIR_ERR_NO_MEMORY", "out of memory");
  } catch (const std::exception& thrown) {
    return Failure("VIR_ERR_INTERNAL_ERROR", thrown.what());
  }
}

}  // namespace

bool Job::take(State from, State to) {
  const std::lock_guard lock(mutex_);
  if (state_ != from) return false;
  state_ = to;
  return true;
}

void Job::settle(Outcome outcome) {
  // Let go of what they hold here, not where the last reference to this job happens to end.
  const Settle settle = std::exchange(settle_, nullptr);
  settle(std::move(outcome));
}

void Job::run(std::atomic<int>& abandoned) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kQueued) {
      work_ = nullptr;
      return;
    }
    state_ = State::kRunning;
    abandoned_ = &abandoned;
  }
  Outcome outcome = outcome_of(work_);
  work_ = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kAbandoned) {
      state_ = State::kSettled;
      --abandoned;
      return;
    }
    state_ = State::kSettled;
  }
  settle(std::move(outcome));
}

void Job::expire() {
  bool ran = false;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kRunning) {
      ran = true;
      state_ = State::kAbandoned;
      ++*abandoned_;
    } else if (state_ == State::kQueued) {
      state_ = State::kSettled;
    } else {
      return;
    }
  }
  const std::string limit = std::to_string(limit_.count()) + " ms";
  settle(Failure("TIMEOUT", ran ? "no answer from libvirt within " + limit + "; the call may still take effect"
                                : "not begun within " + limit + ": all threads of the connection wait for libvirt"));
}

void Job::cancel(const Failure& why) {
  if (take(State::kQueued, State::kSettled)) settle(why);
}

}  // namespace vesper::libvirt
