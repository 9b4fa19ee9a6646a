// SPDX-License-Identifier: Apache-2.0
#include "poller.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <utility>

namespace vesper::relay {

Poller::Poller(Timing timing, std::function<void()> notify) : timing_(timing), notify_(std::move(notify)) {}

Poller::~Poller() { stop(); }

void Poller::add(std::shared_ptr<RegionReader> region, std::uint32_t id) {
  const std::lock_guard lock(mutex_);
  if (stopping_ || find(region.get()) != nullptr) return;
  region->disarm();
  entries_.push_back({std::move(region), id, State::kPolling, false, Clock::now()});
  if (!thread_.joinable()) {
    // Signals belong to the threads of Node.
    sigset_t all;
    sigset_t former;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &former, nullptr);
  } else if (resting_) {
    changed_.notify_one();
  }
}

void Poller::remove(const RegionReader* region) {
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [region](const Entry& entry) { return entry.region.get() == region; });
}

void Poller::wake(const RegionReader* region) {
  const std::lock_guard lock(mutex_);
  Entry* entry = find(region);
  if (entry == nullptr) return;
  if (entry->state == State::kAsleep) entry->region->disarm();
  entry->state = State::kAnnounced;
}

void Poller::done(const RegionReader* region) {
  const std::lock_guard lock(mutex_);
  Entry* entry = find(region);
  if (entry == nullptr || entry->state != State::kAnnounced) return;
  entry->state = State::kPolling;
  entry->last_data = Clock::now();
  if (resting_) changed_.notify_one();
}

std::vector<std::uint32_t> Poller::take_ready() {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint32_t> ids;
  for (Entry& entry : entries_) {
    if (std::exchange(entry.ready, false)) ids.push_back(entry.id);
  }
  return ids;
}

std::size_t Poller::awake() {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(std::count_if(entries_.begin(), entries_.end(),
                                                [](const Entry& entry) { return entry.state != State::kAsleep; }));
}

void Poller::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  entries_.clear();
}

Poller::Entry* Poller::find(const RegionReader* region) {
  for (Entry& entry : entries_) {
    if (entry.region.get() == region) return &entry;
  }
  return nullptr;
}

void Poller::run() {
  pthread_setname_np(pthread_self(), "vesper-relay");
  prctl(PR_SET_TIMERSLACK, 5'000UL, 0, 0, 0);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto now = Clock::now();
    auto quietest = timing_.quiet;
    bool polling = false;
    bool announce = false;
    for (Entry& entry : entries_) {
      if (entry.state != State::kPolling) continue;
      const auto quiet = std::chrono::duration_cast<std::chrono::nanoseconds>(now - entry.last_data);
      if (entry.region->has_data() || (quiet >= timing_.quiet && entry.region->arm())) {
        entry.state = State::kAnnounced;
        entry.ready = announce = true;
      } else if (quiet >= timing_.quiet) {
        entry.state = State::kAsleep;
      } else {
        polling = true;
        quietest = std::min(quietest, quiet);
      }
    }
    if (announce) {
      lock.unlock();
      notify_();
      lock.lock();
      continue;
    }
    if (polling) {
      // An eighth of how long it has been quiet already: the wait never adds much to the age of what it finds.
      changed_.wait_for(lock, std::clamp(quietest / 8, timing_.shortest, timing_.longest));
    } else {
      resting_ = true;
      changed_.wait(lock);
      resting_ = false;
      // What was just drained is left to fill again: each look takes cache lines from the guest that writes.
      if (!stopping_) changed_.wait_for(lock, timing_.shortest);
    }
  }
}

}  // namespace vesper::relay
