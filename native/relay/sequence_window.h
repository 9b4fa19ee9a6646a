// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace vesper::relay {

// Which sequence numbers of a ring were seen. An interrupt may take its number after, and its place before, the record
// it interrupts, so numbers arrive slightly out of order: the last 1,024 are remembered one by one, older ones as a
// total.
class SequenceWindow {
 public:
  static constexpr std::uint64_t kRemembered = 1024;

  void start(std::uint64_t next) { next_ = next; }

  // False: it was seen before.
  bool add(std::uint64_t sequence) {
    if (sequence >= next_) {
      const std::uint64_t skipped = sequence - next_;
      if (skipped >= kRemembered) {
        bits_.fill(0);
      } else {
        for (std::uint64_t s = next_; s < sequence; ++s) word(s) &= ~bit(s);
      }
      word(sequence) |= bit(sequence);
      next_ = sequence + 1;
      ++unique_;
    } else if (next_ - sequence > kRemembered || (word(sequence) & bit(sequence)) != 0) {
      ++duplicates_;
      return false;
    } else {
      word(sequence) |= bit(sequence);
      ++unique_;
      ++late_;
    }
    return true;
  }

  // One more than the highest number seen.
  std::uint64_t next() const { return next_; }
  std::uint64_t unique() const { return unique_; }
  std::uint64_t duplicates() const { return duplicates_; }
  // Of the unique ones: arrived after a higher number.
  std::uint64_t late() const { return late_; }

 private:
  std::uint64_t& word(std::uint64_t s) { return bits_[(s % kRemembered) / 64]; }
  static std::uint64_t bit(std::uint64_t s) { return std::uint64_t{1} << (s % 64); }

  std::array<std::uint64_t, kRemembered / 64> bits_{};
  std::uint64_t next_ = 0;
  std::uint64_t unique_ = 0;
  std::uint64_t duplicates_ = 0;
  std::uint64_t late_ = 0;
};

}  // namespace vesper::relay
