// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer harness of the reader core (native/relay/region_reader.cc): the input is a region, byte for byte, and what
// is overwritten between two reads. With -DSTANDALONE it brings a main() of its own that makes random inputs, for
// compilers without libFuzzer: relay-reader SEED ROUNDS.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../native/relay/region_reader.h"
#include "../../native/relay/wire_layout.h"

using namespace vesper::relay;

namespace {

constexpr std::uint64_t kEpoch = 0x1122334455667788;
constexpr std::size_t kBlocks = 4096;
constexpr std::size_t kData = 8192;
constexpr std::size_t kRingBytes = 4096;
constexpr std::size_t kRegionBytes = kData + 2 * kRingBytes;
constexpr std::uint32_t kRows = 64;

const std::vector<RingGeometry> kRings = {
    {.block_offset = kBlocks, .data_offset = kData, .data_bytes = kRingBytes, .cpu = 0, .critical = true},
    {.block_offset = kBlocks + 256,
     .data_offset = kData + kRingBytes,
     .data_bytes = kRingBytes,
     .cpu = 0,
     .critical = false},
};

// Exactly as large as promised, so that the sanitizer sees every byte beyond.
struct Storage {
  std::vector<std::uint8_t> arena = std::vector<std::uint8_t>(64 * 1024);
  std::vector<double> time_ns = std::vector<double>(kRows), sequence = std::vector<double>(kRows);
  std::vector<std::uint32_t> offset = std::vector<std::uint32_t>(kRows), bytes = std::vector<std::uint32_t>(kRows);
  std::vector<std::uint16_t> slot = std::vector<std::uint16_t>(kRows), event = std::vector<std::uint16_t>(kRows);
  std::vector<std::uint16_t> cpu = std::vector<std::uint16_t>(kRows), ring = std::vector<std::uint16_t>(kRows);

  Columns columns() {
    return {.arena = arena.data(),
            .time_ns = time_ns.data(),
            .sequence = sequence.data(),
            .payload_offset = offset.data(),
            .payload_bytes = bytes.data(),
            .slot = slot.data(),
            .event = event.data(),
            .cpu = cpu.data(),
            .ring = ring.data(),
            .capacity = kRows,
            .arena_bytes = static_cast<std::uint32_t>(arena.size())};
  }
};

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

void check(const Columns& rows) {
  require(rows.count <= rows.capacity && rows.arena_used <= rows.arena_bytes, "rows and arena have room");
  for (std::uint32_t row = 0; row < rows.count; ++row) {
    require(rows.payload_offset[row] % 8 == 0, "payloads are aligned");
    require(rows.payload_bytes[row] <= kRecordMaxBytes - kRecordHeaderBytes, "payloads are short");
    require(rows.payload_offset[row] + rows.payload_bytes[row] <= rows.arena_used, "payloads lie in the arena");
    require(rows.ring[row] < kRings.size(), "rings exist");
  }
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  std::uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  std::uint64_t number(int bytes) {
    std::uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= std::uint64_t{byte()} << (8 * i);
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

template <typename T>
void put(std::vector<std::uint8_t>& region, std::size_t at, T value) {
  std::memcpy(region.data() + at, &value, sizeof value);
}

// Writes a record that is right but for what the input says: from random bytes alone no tag would ever fit.
std::uint64_t write_record(std::vector<std::uint8_t>& region, std::size_t ring, std::uint64_t position, Input& input) {
  const std::uint8_t what = input.byte();
  const std::uint64_t offset = position % kRingBytes;
  std::uint32_t length = 32 + input.byte() * 4;
  std::uint64_t whole = (length + 7) & ~7u;
  const std::uint64_t to_end = kRingBytes - offset;
  const std::size_t at = kRings[ring].data_offset + offset;
  if (whole > to_end) {
    whole = to_end;
    length = kRecordPad | ((what & 1) != 0 ? static_cast<std::uint32_t>(to_end) : 0);
  }
  put(region, at, record_tag(position, kEpoch) ^ (what == 0xff ? input.byte() : 0));
  put(region, at + 4, what == 0xfe ? static_cast<std::uint32_t>(input.number(4)) : length);
  if ((length & kRecordPad) == 0) {
    put(region, at + kRecordSlot, static_cast<std::uint64_t>(what));
    put(region, at + kRecordSequence, what == 0xfd ? input.number(8) : position / 32);
  }
  return position + whole;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  std::vector<std::uint8_t> region(kRegionBytes);
  std::uint64_t heads[2];
  for (std::size_t ring = 0; ring < 2; ++ring) {
    const std::uint64_t start = (input.number(2) & 0x3ff) * 8;
    heads[ring] = start;
    put(region, kRings[ring].block_offset + kBlockTail, start);
    for (int records = input.byte() % 64; records > 0; --records) {
      const std::uint64_t next = write_record(region, ring, heads[ring], input);
      if (next - start > kRingBytes) break;
      heads[ring] = next;
    }
    put(region, kRings[ring].block_offset + kBlockHead, heads[ring]);
  }
  static const std::atomic<bool> kWhole{false};
  Storage rows;
  Columns columns = rows.columns();
  RegionReader reader({region.data(), kRegionBytes, &kWhole, nullptr}, kRings, kEpoch, (input.byte() & 1) != 0);
  for (int steps = 0; steps < 64 && !input.empty(); ++steps) {
    switch (input.byte() % 10) {
      case 0:
      case 1:
      case 2:
        reader.drain(columns, 1 + input.byte());
        check(columns);
        break;
      case 3:
        reader.release();
        break;
      case 4:
        reader.rewind();
        break;
      case 5:
        reader.history(columns);
        check(columns);
        break;
      case 6:
        reader.beyond(columns);
        check(columns);
        break;
      case 7:
        reader.arm();
        for (const Ring& ring : reader.rings()) (void)ring.statistics();
        break;
      case 8:
        put(region, kBlocks + (input.number(2) % 448), static_cast<std::uint8_t>(input.byte()));
        break;
      case 9: {
        const std::size_t ring = input.byte() & 1;
        heads[ring] = write_record(region, ring, heads[ring], input);
        put(region, kRings[ring].block_offset + kBlockHead, heads[ring]);
        break;
      }
    }
  }
  // However it went, what is left ends.
  for (std::size_t turns = 0; reader.drain(columns, kRows) != 0; ++turns) {
    check(columns);
    require(turns < kRegionBytes / 32, "draining ends");
  }
  for (std::size_t turns = 0; reader.beyond(columns) != 0; ++turns) require(turns < kRegionBytes / 32, "scanning ends");
  return 0;
}

#ifdef STANDALONE
int main(int argc, char** argv) {
  std::uint64_t state = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1) | 1;
  const long rounds = argc > 2 ? std::atol(argv[2]) : 100000;
  std::vector<std::uint8_t> data;
  for (long round = 0; round < rounds; ++round) {
    data.resize(state % 1500);
    for (std::uint8_t& byte : data) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<std::uint8_t>(state >> 33);
    }
    state = state * 6364136223846793005u + 1442695040888963407u;
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  std::printf("%ld rounds\n", rounds);
}
#endif
