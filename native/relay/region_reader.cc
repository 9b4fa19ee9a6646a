// SPDX-License-Identifier: Apache-2.0
#include "region_reader.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <utility>

#include "wire_layout.h"

namespace vesper::relay {
namespace {

bool inside(const RingGeometry& ring, std::uint64_t bytes) {
  return ring.block_offset % kRingBlockBytes == 0 && ring.data_offset % kPageBytes == 0 &&
         std::has_single_bit(ring.data_bytes) && ring.data_bytes >= kRingMinBytes && ring.block_offset <= bytes &&
         kRingBlockBytes <= bytes - ring.block_offset && ring.data_offset <= bytes &&
         ring.data_bytes <= bytes - ring.data_offset;
}

}  // namespace

RegionReader::RegionReader(RegionMemory memory, const std::vector<RingGeometry>& geometry, std::uint64_t epoch,
                           bool resume)
    : memory_(std::move(memory)), epoch_(epoch) {
  if (geometry.size() > UINT16_MAX) throw std::invalid_argument("too many rings");
  for (const RingGeometry& ring : geometry) {
    if (!inside(ring, memory_.bytes)) throw std::invalid_argument("a ring does not lie inside the region");
    rings_.emplace_back(memory_.base, ring, static_cast<std::uint16_t>(rings_.size()), epoch, resume);
    if (first_block_ == nullptr) first_block_ = memory_.base + ring.block_offset;
    (ring.critical ? critical_ : other_).push_back(&rings_.back());
  }
}

std::uint32_t RegionReader::drain(Columns& out, std::uint32_t limit) {
  out.clear();
  const std::uint32_t rows = std::min(limit, out.capacity);
  // A flood of critical events, which a hostile guest can make, leaves the others a quarter.
  drain_group(out, critical_, critical_turn_, rows - rows / 4, out.arena_bytes - out.arena_bytes / 4);
  drain_group(out, other_, other_turn_, rows, out.arena_bytes);
  return out.count;
}

void RegionReader::drain_group(Columns& out, const Group& group, std::size_t& turn, std::uint32_t row_end,
                               std::uint32_t arena_end) {
  if (group.empty()) return;
  const std::uint64_t share = std::max<std::uint64_t>(arena_end / group.size(), std::uint64_t{16} * kRecordMaxBytes);
  for (std::size_t n = 0; n < group.size(); ++n) {
    if (out.count >= row_end || out.arena_used + kRecordMaxBytes > arena_end) break;
    Ring* ring = group[turn];
    turn = (turn + 1) % group.size();
    ring->read(out, row_end, std::min<std::uint64_t>(share, arena_end - out.arena_used), *memory_.truncated);
  }
}

bool RegionReader::is_still_ours() const {
  if (!memory_.in_ram) return true;
  const auto* epoch = reinterpret_cast<const std::uint64_t*>(memory_.base + kRegionEpoch);
  return __atomic_load_n(epoch, __ATOMIC_RELAXED) == epoch_;
}

bool RegionReader::still_ours() {
  if (is_still_ours()) return true;
  for (Ring& ring : rings_) ring.give_up(Fault::kHeader);
  return false;
}

void RegionReader::release() {
  if (!still_ours()) return;
  for (Ring& ring : rings_) ring.release();
}

void RegionReader::reclaim() {
  for (Ring& ring : rings_) ring.reclaim();
}

void RegionReader::rewind() {
  for (Ring& ring : rings_) ring.rewind();
}

std::uint32_t RegionReader::scan(Columns& out, std::size_t& turn, bool (Ring::*next)(Columns&)) {
  out.clear();
  for (; turn < rings_.size(); ++turn) {
    while ((rings_[turn].*next)(out)) {
      if (out.count >= out.capacity || out.arena_bytes - out.arena_used < kRecordMaxBytes) return out.count;
    }
  }
  if (out.count == 0) turn = 0;
  return out.count;
}

std::uint32_t RegionReader::history(Columns& out) { return scan(out, history_turn_, &Ring::scan_history); }

std::uint32_t RegionReader::beyond(Columns& out) { return scan(out, beyond_turn_, &Ring::scan_beyond); }

bool RegionReader::has_data() const {
  return std::any_of(rings_.begin(), rings_.end(), [](const Ring& ring) { return ring.has_data(); });
}

bool RegionReader::arm() {
  if (!still_ours()) return false;
  for (Ring& ring : rings_) {
    // A ring that was given up is not read again: its doorbells would never end.
    if (ring.fault() == Fault::kNone) ring.set_need_wakeup(true);
  }
  // Pairs with the guest's smp_mb() between publishing head and testing need_wakeup: either it sees the flag or we see
  // its record.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!has_data()) return false;
  disarm();
  return true;
}

void RegionReader::disarm() {
  if (!still_ours()) return;
  for (Ring& ring : rings_) ring.set_need_wakeup(false);
}

}  // namespace vesper::relay
