// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "region_reader.h"

namespace vesper::relay {

// CLOCK_MONOTONIC of this machine around a time of the guest, in ns. The guest's is whatever it wrote.
struct ClockSample {
  std::uint64_t asked_ns;
  std::uint64_t guest_ns;
  std::uint64_t answered_ns;
};

// Asks a guest for its time through the first control block of its region, see host/wire/region.ts. One thread asks;
// another may end it.
class ClockQuestions {
 public:
  explicit ClockQuestions(std::shared_ptr<RegionReader> reader) : reader_(std::move(reader)) {}

  // The answer that came soonest, of several. Nothing where the guest does not begin to answer within `limit_ns`.
  std::optional<ClockSample> ask(std::uint64_t limit_ns);
  // After the return the region is not touched any more. Waits for microseconds.
  void stop();

 private:
  std::optional<ClockSample> answer(std::uint8_t* block, std::uint64_t question, std::uint64_t limit_ns,
                                    bool nap) const;

  std::mutex asking_;
  std::atomic<bool> stopped_{false};
  std::shared_ptr<RegionReader> reader_;
};

}  // namespace vesper::relay
