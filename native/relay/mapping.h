// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace vesper::relay {

// Closes its file descriptor.
class File {
 public:
  // O_RDWR (or O_RDONLY) | O_CLOEXEC | O_NOFOLLOW. Throws SystemError.
  File(const std::string& path, bool writable);
  // A duplicate of `fd`.
  explicit File(int fd);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

struct BusGuard;

// A part of a file, in bytes; both multiples of the page.
struct Piece {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// As in host/wire/message.ts.
constexpr std::size_t kPiecesMax = 256;

// A regular file mapped shared. Where the file becomes shorter later, the first access to what is gone does not raise
// SIGBUS: the mapping is replaced by private zero pages and truncated() tells.
class Mapping {
 public:
  // Throws SystemError: EINVAL where it is no regular file, ERANGE where it is shorter than `bytes`.
  Mapping(const File& file, std::uint64_t bytes);
  // The pieces of the file one behind the other. Throws SystemError: EINVAL where there are none or too many, where one
  // is empty or not of whole pages, where two overlap or all are not `bytes` long; ERANGE where one is not in the file.
  Mapping(const File& file, std::uint64_t bytes, const std::vector<Piece>& pieces);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Pages are read-only until allowed; both in bytes, multiples of the page.
  void allow_writes(std::uint64_t offset, std::uint64_t bytes);
  std::uint8_t* base() const { return base_; }
  std::uint64_t bytes() const { return bytes_; }
  const std::atomic<bool>& truncated() const;

 private:
  void guard();

  std::uint8_t* base_ = nullptr;
  std::uint64_t bytes_ = 0;
  BusGuard* guard_ = nullptr;
};

}  // namespace vesper::relay
