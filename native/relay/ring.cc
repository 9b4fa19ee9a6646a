// SPDX-License-Identifier: Apache-2.0
#include "ring.h"

#include <algorithm>
#include <cstring>

#include "wire_layout.h"

namespace vesper::relay {
namespace {

// Copied at a time: stays in the first-level cache between copying and judging.
constexpr std::uint64_t kPieceBytes = 16384;

template <typename T>
T load(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Fields of the control block are naturally aligned and shared with the guest.
template <typename T>
T load_shared(const std::uint8_t* from, int order) {
  const T* field = reinterpret_cast<const T*>(from);
  return order == __ATOMIC_ACQUIRE ? __atomic_load_n(field, __ATOMIC_ACQUIRE)
                                   : __atomic_load_n(field, __ATOMIC_RELAXED);
}

template <typename T>
void store_shared(std::uint8_t* to, T value, int order) {
  T* field = reinterpret_cast<T*>(to);
  if (order == __ATOMIC_RELEASE) {
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
  } else {
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
  }
}

// The one copy out of shared memory. The compiler must not look at the source again afterwards: it may have changed.
void copy_out(std::uint8_t* to, const std::uint8_t* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  asm volatile("" ::: "memory");
}

constexpr std::uint32_t aligned(std::uint32_t length) { return (length + kRecordAlign - 1) & ~(kRecordAlign - 1); }

// Journal: {tail, records released, next sequence}, twice.
constexpr std::size_t kJournalEntryBytes = 24;

}  // namespace

Ring::Ring(std::uint8_t* base, const RingGeometry& geometry, std::uint16_t index, std::uint64_t epoch, bool resume)
    : block_(base + geometry.block_offset),
      data_(base + geometry.data_offset),
      geometry_(geometry),
      size_(geometry.data_bytes),
      epoch_(epoch),
      index_(index) {
  if (!resume) return;
  const std::uint64_t tail = load_shared<std::uint64_t>(block_ + kBlockTail, __ATOMIC_ACQUIRE);
  const std::uint64_t head = load_head();
  if (tail % kRecordAlign != 0 || tail > head || head - tail > size_) {
    give_up(Fault::kTailInvalid);
    return;
  }
  tail_ = tail;
  cursor_.store(tail, std::memory_order_relaxed);
  base_known_ = false;
  for (std::size_t entry = 0; entry < 2; ++entry) {
    const std::uint8_t* journal = block_ + kBlockJournal + entry * kJournalEntryBytes;
    if (load_shared<std::uint64_t>(journal, __ATOMIC_RELAXED) != tail) continue;
    const auto released = load_shared<std::uint64_t>(journal + 8, __ATOMIC_RELAXED);
    const auto next = load_shared<std::uint64_t>(journal + 16, __ATOMIC_RELAXED);
    if (next >= kSequenceLimit || released > next) continue;
    received_before_ = released;
    window_.start(next);
    base_known_ = true;
  }
}

std::uint64_t Ring::load_head() const {
  // Pairs with the guest's smp_store_release() of head: what lies below is written.
  return load_shared<std::uint64_t>(block_ + kBlockHead, __ATOMIC_ACQUIRE);
}

bool Ring::has_data() const {
  return fault() == Fault::kNone && load_head() != cursor_.load(std::memory_order_relaxed);
}

void Ring::set_need_wakeup(bool on) {
  store_shared<std::uint32_t>(block_ + kBlockNeedWakeup, on ? 1 : 0, __ATOMIC_RELAXED);
}

void Ring::give_up(Fault fault) { fault_.store(fault, std::memory_order_relaxed); }

void Ring::read(Columns& out, std::uint32_t row_end, std::uint64_t byte_budget, const std::atomic<bool>& truncated) {
  if (fault() != Fault::kNone) return;
  const std::uint64_t head = load_head();
  std::uint64_t cursor = cursor_.load(std::memory_order_relaxed);
  if (truncated.load(std::memory_order_relaxed)) return give_up(Fault::kTruncated);
  if (head == cursor) return;
  if (head % kRecordAlign != 0) return give_up(Fault::kHeadMisaligned);
  if (head < cursor) return give_up(Fault::kHeadBehindTail);
  if (head - tail_ > size_) return give_up(Fault::kHeadOverrun);

  while (cursor < head && byte_budget > 0 && out.count < row_end) {
    const std::uint64_t offset = cursor & (size_ - 1);
    const std::uint64_t room = (out.arena_bytes - out.arena_used) & ~std::uint64_t{kRecordAlign - 1};
    if (room < kRecordMaxBytes) return;
    const std::uint64_t piece = std::min({head - cursor, size_ - offset, room, kPieceBytes});
    copy_out(out.arena + out.arena_used, data_ + offset, piece);
    if (truncated.load(std::memory_order_relaxed)) return give_up(Fault::kTruncated);

    const std::uint32_t parsed = parse(out, row_end, static_cast<std::uint32_t>(piece), cursor, head);
    out.arena_used += parsed;
    cursor += parsed;
    cursor_.store(cursor, std::memory_order_relaxed);
    byte_budget -= std::min<std::uint64_t>(byte_budget, parsed);
    if (parsed == 0) return;
  }
}

// Judges the piece that was copied to the end of the arena and gives every whole record a row. Returns the bytes of
// whole records and paddings; each turn goes at least 8 bytes further. A record cut by the end of the piece is left for
// the next.
std::uint32_t Ring::parse(Columns& out, std::uint32_t row_end, std::uint32_t piece_bytes, std::uint64_t position,
                          std::uint64_t head) {
  const std::uint32_t arena_from = out.arena_used;
  std::uint32_t at = 0;
  while (at < piece_bytes) {
    const std::uint8_t* record = out.arena + arena_from + at;
    const std::uint64_t here = position + at;
    const std::uint64_t to_end = size_ - (here & (size_ - 1));
    const std::uint32_t length = load<std::uint32_t>(record + kRecordLength);
    if (load<std::uint32_t>(record + kRecordTag) != record_tag(here, epoch_)) {
      give_up(Fault::kTag);
      break;
    }
    if ((length & kRecordPad) != 0) {
      const std::uint32_t padding = length & ~kRecordPad;
      if ((padding != 0 && padding != to_end) || to_end >= kRecordMaxBytes || to_end > head - here) {
        give_up(Fault::kPadding);
        break;
      }
      if (to_end > piece_bytes - at) break;
      at += static_cast<std::uint32_t>(to_end);
      ++paddings_;
      continue;
    }
    if (length < kRecordHeaderBytes || length > kRecordMaxBytes) {
      give_up(Fault::kLength);
      break;
    }
    const std::uint32_t whole = aligned(length);
    if (whole > to_end) {
      give_up(Fault::kCrossesEnd);
      break;
    }
    if (whole > head - here) {
      give_up(Fault::kCrossesHead);
      break;
    }
    if (whole > piece_bytes - at || out.count >= row_end) break;
    const std::uint64_t sequence = load<std::uint64_t>(record + kRecordSequence);
    if (sequence >= kSequenceLimit) {
      give_up(Fault::kSequence);
      break;
    }
    // What was taken twice after rewind() is given twice; what scan_beyond() gave before it was published is not.
    if (account(sequence, whole) || !took_beyond_) put_row(out, record, arena_from + at, length);
    at += whole;
  }
  return at;
}

bool Ring::account(std::uint64_t sequence, std::uint32_t bytes) {
  if (!base_known_) {
    base_known_ = true;
    sequence_base_ = sequence;
    window_.start(sequence);
  }
  if (!window_.add(sequence)) return false;
  received_bytes_ += bytes;
  return true;
}

void Ring::put_row(Columns& out, const std::uint8_t* record, std::uint32_t arena_at, std::uint32_t length) const {
  const std::uint32_t row = out.count++;
  out.slot[row] = load<std::uint16_t>(record + kRecordSlot);
  out.event[row] = load<std::uint16_t>(record + kRecordEvent);
  out.cpu[row] = load<std::uint16_t>(record + kRecordCpu);
  out.ring[row] = index_;
  out.time_ns[row] = static_cast<double>(load<std::uint64_t>(record + kRecordTime));
  out.sequence[row] = static_cast<double>(load<std::uint64_t>(record + kRecordSequence));
  out.payload_offset[row] = arena_at + kRecordHeaderBytes;
  out.payload_bytes[row] = length - kRecordHeaderBytes;
}

void Ring::release() {
  const std::uint64_t cursor = cursor_.load(std::memory_order_relaxed);
  if (cursor == tail_) return;
  reclaim();
  // A reader killed at any instruction leaves a tail and, with it, exactly one journal entry of that tail: the entry
  // that does not belong to the old tail is written before the new tail becomes visible.
  std::uint8_t* journal = block_ + kBlockJournal;
  if (load_shared<std::uint64_t>(journal, __ATOMIC_RELAXED) == tail_) journal += kJournalEntryBytes;
  store_shared<std::uint64_t>(journal, cursor, __ATOMIC_RELAXED);
  store_shared<std::uint64_t>(journal + 8, accounted(), __ATOMIC_RELAXED);
  store_shared<std::uint64_t>(journal + 16, window_.next(), __ATOMIC_RELAXED);
  // Pairs with the guest's smp_load_acquire() of tail: we are done with the bytes below before it writes them again.
  store_shared<std::uint64_t>(block_ + kBlockTail, cursor, __ATOMIC_RELEASE);
  tail_ = cursor;
}

void Ring::reclaim() {
  if (fault() != Fault::kNone || load_shared<std::uint64_t>(block_ + kBlockTail, __ATOMIC_RELAXED) == tail_) return;
  ++overwritten_;
  store_shared<std::uint64_t>(block_ + kBlockTail, tail_, __ATOMIC_RELEASE);
}

RingStatistics Ring::statistics() const {
  const std::uint64_t head = load_head();
  const std::uint64_t cursor = cursor_.load(std::memory_order_relaxed);
  return {
      .fault = fault(),
      .received = window_.unique(),
      .received_bytes = received_bytes_,
      .received_before = received_before_,
      .next_sequence = window_.next(),
      .gaps = window_.next() > accounted() ? window_.next() - accounted() : 0,
      .duplicates = window_.duplicates(),
      .late = window_.late(),
      .paddings = paddings_,
      .guest_attempts = load_shared<std::uint64_t>(block_ + kBlockAttempts, __ATOMIC_RELAXED),
      .guest_lost = load_shared<std::uint64_t>(block_ + kBlockLost, __ATOMIC_RELAXED),
      .pending_bytes = head > cursor ? std::min(head - cursor, size_) : 0,
      .overwritten = overwritten_,
  };
}

bool Ring::scan_history(Columns& out) {
  if (!history_at_) {
    const std::uint64_t head = load_head();
    const std::uint64_t written = head >= tail_ && head - tail_ <= size_ ? head : tail_;
    // Just behind the place of head a dying writer may have overwritten the payload of an older record, not yet its
    // tag.
    const std::uint64_t from =
        (written & ~std::uint64_t{kRecordAlign - 1}) + std::min<std::uint64_t>(4 * kRecordMaxBytes, size_ / 4);
    history_at_ = from > size_ ? from - size_ : 0;
  }
  return scan(out, *history_at_, tail_, false);
}

bool Ring::scan_beyond(Columns& out) {
  if (!beyond_at_) beyond_at_ = cursor_.load(std::memory_order_relaxed);
  if (scan(out, *beyond_at_, tail_ + size_, true)) return true;
  beyond_at_.reset();
  return false;
}

// Walks the positions in steps of 8 bytes and takes what carries the tag of its position: no start of a record is
// known.
bool Ring::scan(Columns& out, std::uint64_t& at, std::uint64_t end, bool once) {
  if (at >= end) return false;
  while (at < end) {
    const std::uint64_t offset = at & (size_ - 1);
    if (load_shared<std::uint32_t>(data_ + offset, __ATOMIC_RELAXED) != record_tag(at, epoch_)) {
      at += kRecordAlign;
      continue;
    }
    const auto room = out.arena_bytes - out.arena_used;
    if (out.count >= out.capacity || room < kRecordMaxBytes) return true;
    const std::uint64_t most = std::min({end - at, size_ - offset, std::uint64_t{kRecordMaxBytes}});
    std::uint8_t* copy = out.arena + out.arena_used;
    copy_out(copy, data_ + offset, most);
    const std::uint32_t length = load<std::uint32_t>(copy + kRecordLength);
    const bool whole = load<std::uint32_t>(copy + kRecordTag) == record_tag(at, epoch_) &&
                       length >= kRecordHeaderBytes && length <= kRecordMaxBytes && aligned(length) <= most &&
                       load<std::uint16_t>(copy + kRecordCpu) == geometry_.cpu &&
                       load<std::uint64_t>(copy + kRecordSequence) < kSequenceLimit;
    if (!whole) {
      at += kRecordAlign;
      continue;
    }
    at += aligned(length);
    if (once) {
      took_beyond_ = true;
      if (!account(load<std::uint64_t>(copy + kRecordSequence), aligned(length))) continue;
    }
    put_row(out, copy, out.arena_used, length);
    out.arena_used += aligned(length);
  }
  return true;
}

}  // namespace vesper::relay
