// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "columns.h"
#include "ring.h"

namespace vesper::relay {

// Memory of a region; whoever provides it keeps it alive as long as `owner`.
struct RegionMemory {
  std::uint8_t* base;
  std::uint64_t bytes;
  // Set when the file behind the mapping became shorter than the mapping.
  const std::atomic<bool>* truncated;
  std::shared_ptr<void> owner;
  // It lies in RAM of the guest, which may have become something else: of a guest that was reset and boots again.
  bool in_ram = false;
};

// All rings of one region. One thread reads; has_data(), arm() and disarm() may be called by another.
class RegionReader {
 public:
  // Throws std::invalid_argument where a ring does not lie inside the region.
  RegionReader(RegionMemory memory, const std::vector<RingGeometry>& geometry, std::uint64_t epoch, bool resume);

  // Replaces the contents of `out` by up to `limit` records: critical rings first, a share of the room kept for the
  // others, the rings of a kind in turn. Returns the number of rows.
  std::uint32_t drain(Columns& out, std::uint32_t limit);
  void release();
  void reclaim();
  void rewind();

  // As Ring::scan_*, over all rings: 0 when there is nothing further.
  std::uint32_t history(Columns& out);
  std::uint32_t beyond(Columns& out);

  bool has_data() const;
  // Asks the guest for a doorbell at the next record. True: there is data already, and no doorbell was asked for.
  bool arm();
  void disarm();

  // Any thread. False: memory in RAM is no longer this region, and nothing may be written into it.
  bool is_still_ours() const;
  // Control block of the first ring; nullptr where there is none.
  std::uint8_t* first_block() const { return first_block_; }
  const std::uint8_t* base() const { return memory_.base; }
  std::uint64_t bytes() const { return memory_.bytes; }
  const std::deque<Ring>& rings() const { return rings_; }

 private:
  using Group = std::vector<Ring*>;
  std::uint32_t scan(Columns& out, std::size_t& turn, bool (Ring::*next)(Columns&));
  void drain_group(Columns& out, const Group& group, std::size_t& turn, std::uint32_t row_end, std::uint32_t arena_end);

  // As is_still_ours(); if not, every ring is given up.
  bool still_ours();

  RegionMemory memory_;
  std::uint64_t epoch_;
  std::uint8_t* first_block_ = nullptr;
  std::deque<Ring> rings_;
  Group critical_;
  Group other_;
  std::size_t history_turn_ = 0;
  std::size_t beyond_turn_ = 0;
  std::size_t critical_turn_ = 0;
  std::size_t other_turn_ = 0;
};

}  // namespace vesper::relay
