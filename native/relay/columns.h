// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vesper::relay {

// Where drained records go: one row each, payloads in the arena. Plain pointers into memory that the owner keeps alive.
struct Columns {
  std::uint8_t* arena;
  double* time_ns;
  double* sequence;
  std::uint32_t* payload_offset;
  std::uint32_t* payload_bytes;
  std::uint16_t* slot;
  std::uint16_t* event;
  std::uint16_t* cpu;
  std::uint16_t* ring;
  std::uint32_t capacity;
  std::uint32_t arena_bytes;
  std::uint32_t count = 0;
  std::uint32_t arena_used = 0;

  void clear() { count = arena_used = 0; }
};

}  // namespace vesper::relay
