// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "columns.h"
#include "sequence_window.h"

namespace vesper::relay {

// Why a ring is no longer read. The names are in host/relay/native.ts, in this order.
enum class Fault : std::uint32_t {
  kNone,
  kHeadMisaligned,
  kHeadBehindTail,
  kHeadOverrun,
  kTailInvalid,
  kTag,
  kLength,
  kCrossesEnd,
  kCrossesHead,
  kPadding,
  kSequence,
  kTruncated,
  // The header of a region in RAM is no longer there.
  kHeader,
};

struct RingGeometry {
  std::uint64_t block_offset;
  std::uint64_t data_offset;
  std::uint64_t data_bytes;
  std::uint16_t cpu;
  bool critical;
};

struct RingStatistics {
  Fault fault;
  // Records taken by drain() of this reader, duplicates not counted again.
  std::uint64_t received;
  std::uint64_t received_bytes;
  // Records that earlier readers of this epoch released, as far as the journal tells.
  std::uint64_t received_before;
  // One more than the highest sequence number seen.
  std::uint64_t next_sequence;
  // Numbers below next_sequence that nobody received.
  std::uint64_t gaps;
  std::uint64_t duplicates;
  std::uint64_t late;
  std::uint64_t paddings;
  // As the guest counts; read just now.
  std::uint64_t guest_attempts;
  std::uint64_t guest_lost;
  // Published and not yet taken, in bytes.
  std::uint64_t pending_bytes;
  // How often the guest was found to have overwritten the tail, which only this reader writes.
  std::uint64_t overwritten;
};

// Reader of one ring. Every byte it reads is hostile and may change at any moment: each is copied out once and judged
// in the copy. A ring that breaks the rules is given up (fault()), never repaired.
//
//   tail            cursor          head              tail + size
//    | taken, not    | to be taken   | reserved by the  |
//    | released      |               | guest, or free   |
class Ring {
 public:
  Ring(std::uint8_t* base, const RingGeometry& geometry, std::uint16_t index, std::uint64_t epoch, bool resume);
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Takes records up to `row_end` rows of `out` and about `byte_budget` bytes; `truncated` tells that the mapping lost
  // its file.
  void read(Columns& out, std::uint32_t row_end, std::uint64_t byte_budget, const std::atomic<bool>& truncated);

  // Gives what was taken back to the guest as free space.
  void release();
  // Writes the tail anew where the guest overwrote it: with another one it would lose every record for want of space.
  void reclaim();
  // Takes again, next time, what was not released.
  void rewind() { cursor_.store(tail_, std::memory_order_relaxed); }

  // Records that were released and not overwritten since. False: there is nothing further.
  bool scan_history(Columns& out);
  // Records committed beyond head: an interrupted writer has not published them yet, and never will if the guest is
  // dead. Only when everything up to head was taken. False: there is nothing further; the next call starts again. A
  // record that is published after all is not taken twice.
  bool scan_beyond(Columns& out);

  // Any thread.
  bool has_data() const;
  void set_need_wakeup(bool on);
  Fault fault() const { return fault_.load(std::memory_order_relaxed); }

  void give_up(Fault fault);
  RingStatistics statistics() const;
  bool critical() const { return geometry_.critical; }

 private:
  std::uint32_t parse(Columns& out, std::uint32_t row_end, std::uint32_t piece_bytes, std::uint64_t position,
                      std::uint64_t head);
  bool scan(Columns& out, std::uint64_t& at, std::uint64_t end, bool once);
  bool account(std::uint64_t sequence, std::uint32_t bytes);
  void put_row(Columns& out, const std::uint8_t* record, std::uint32_t arena_at, std::uint32_t length) const;
  std::uint64_t load_head() const;
  // Sequence numbers below next_sequence that were received, or lie before the first this reader could know of.
  std::uint64_t accounted() const { return sequence_base_ + received_before_ + window_.unique(); }

  std::uint8_t* block_;
  const std::uint8_t* data_;
  RingGeometry geometry_;
  std::uint64_t size_;
  std::uint64_t epoch_;
  std::uint16_t index_;

  // As it was last stored.
  std::uint64_t tail_ = 0;
  std::uint64_t overwritten_ = 0;
  std::atomic<std::uint64_t> cursor_{0};
  std::atomic<Fault> fault_{Fault::kNone};

  SequenceWindow window_;
  std::uint64_t received_bytes_ = 0;
  std::uint64_t received_before_ = 0;
  std::uint64_t sequence_base_ = 0;
  bool base_known_ = true;
  std::uint64_t paddings_ = 0;
  std::optional<std::uint64_t> history_at_;
  std::optional<std::uint64_t> beyond_at_;
  bool took_beyond_ = false;
};

}  // namespace vesper::relay
