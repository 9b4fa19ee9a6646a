// SPDX-License-Identifier: Apache-2.0
//
// Offsets of the shared region that the reader needs; host/wire/region.ts defines them, test/unit/relay-native.test.ts
// proves that both agree.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace vesper::relay {

static_assert(std::endian::native == std::endian::little, "the shared region is little-endian");

inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint64_t kRegionEpoch = 40;
inline constexpr std::uint64_t kRingBlockBytes = 256;
inline constexpr std::uint64_t kRingMinBytes = 4096;

// struct vesper_ring_block: the guest's half, then ours.
inline constexpr std::size_t kBlockHead = 0;
inline constexpr std::size_t kBlockAttempts = 8;
inline constexpr std::size_t kBlockLost = 16;
inline constexpr std::size_t kBlockClockAnswer = 112;
inline constexpr std::size_t kBlockClockNs = 120;
inline constexpr std::size_t kBlockTail = 128;
inline constexpr std::size_t kBlockNeedWakeup = 136;
// consumer_reserved: two entries of the reader's own journal, see Ring::release().
inline constexpr std::size_t kBlockJournal = 144;
inline constexpr std::size_t kBlockClockQuestion = 248;

// struct vesper_record.
inline constexpr std::size_t kRecordTag = 0;
inline constexpr std::size_t kRecordLength = 4;
inline constexpr std::size_t kRecordSlot = 8;
inline constexpr std::size_t kRecordEvent = 10;
inline constexpr std::size_t kRecordCpu = 12;
inline constexpr std::size_t kRecordFlags = 14;
inline constexpr std::size_t kRecordTime = 16;
inline constexpr std::size_t kRecordSequence = 24;
inline constexpr std::uint32_t kRecordHeaderBytes = 32;
inline constexpr std::uint32_t kRecordAlign = 8;
inline constexpr std::uint32_t kRecordMaxBytes = 1024;
inline constexpr std::uint32_t kRecordPad = 0x80000000u;

// Sequence numbers have to stay exact as a JavaScript number; 2^53 records take 285 years at a million a second.
inline constexpr std::uint64_t kSequenceLimit = std::uint64_t{1} << 53;

// Tag of a committed record: proves that the bytes at `position` were written for this lap of this epoch.
constexpr std::uint32_t record_tag(std::uint64_t position, std::uint64_t epoch) {
  return static_cast<std::uint32_t>(position >> 3) ^ static_cast<std::uint32_t>(epoch);
}

}  // namespace vesper::relay
