// SPDX-License-Identifier: Apache-2.0
#include "clock_questions.h"

#include <ctime>

#include "wire_layout.h"

namespace vesper::relay {
namespace {

// Enough that one of them meets no interrupt, neither here nor in the guest.
constexpr int kQuestions = 24;
constexpr std::uint64_t kSpinNs = 500'000;
constexpr long kNapNs = 20'000;

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

void rest(bool nap) {
  if (nap) {
    const timespec pause{0, kNapNs};
    nanosleep(&pause, nullptr);
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

std::uint64_t* word(std::uint8_t* block, std::size_t offset) {
  return reinterpret_cast<std::uint64_t*>(block + offset);
}

}  // namespace

std::optional<ClockSample> ClockQuestions::answer(std::uint8_t* block, std::uint64_t question, std::uint64_t limit_ns,
                                                  bool nap) const {
  ClockSample sample{.asked_ns = now_ns(), .guest_ns = 0, .answered_ns = 0};
  __atomic_store_n(word(block, kBlockClockQuestion), question, __ATOMIC_RELEASE);
  while (!stopped_.load(std::memory_order_relaxed)) {
    // Pairs with the release of the guest.
    const bool answered = __atomic_load_n(word(block, kBlockClockAnswer), __ATOMIC_ACQUIRE) == question;
    sample.answered_ns = now_ns();
    if (answered) {
      sample.guest_ns = __atomic_load_n(word(block, kBlockClockNs), __ATOMIC_RELAXED);
      return sample;
    }
    if (sample.answered_ns - sample.asked_ns > limit_ns) return std::nullopt;
    rest(nap);
  }
  return std::nullopt;
}

std::optional<ClockSample> ClockQuestions::ask(std::uint64_t limit_ns) {
  const std::lock_guard<std::mutex> lock(asking_);
  if (stopped_.load() || !reader_->is_still_ours() || reader_->first_block() == nullptr) return std::nullopt;
  std::uint8_t* block = reader_->first_block();
  // New to the guest also where a reader before this one asked.
  std::uint64_t question = now_ns();
  std::optional<ClockSample> best;
  // The first one only shows that the guest has begun to look.
  if (answer(block, question, limit_ns, true).has_value()) {
    for (int n = 0; n < kQuestions; ++n) {
      const auto sample = answer(block, ++question, kSpinNs, false);
      if (!sample.has_value()) break;
      if (!best.has_value() || sample->answered_ns - sample->asked_ns < best->answered_ns - best->asked_ns)
        best = sample;
    }
  }
  if (!stopped_.load()) __atomic_store_n(word(block, kBlockClockQuestion), std::uint64_t{0}, __ATOMIC_RELEASE);
  return best;
}

void ClockQuestions::stop() {
  stopped_.store(true);
  const std::lock_guard<std::mutex> lock(asking_);
  reader_.reset();
}

}  // namespace vesper::relay
