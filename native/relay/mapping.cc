// SPDX-License-Identifier: Apache-2.0
#include "mapping.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "system_error.h"
#include "wire_layout.h"

namespace vesper::relay {

// One mapping that the signal handler knows. Guards are never freed, only used again: the handler may walk the list at
// any moment.
struct BusGuard {
  std::atomic<bool> used{false};
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> truncated{false};
  BusGuard* next = nullptr;
};

namespace {

std::atomic<BusGuard*> guards{nullptr};
struct sigaction former_action;

// Async-signal-safe: mmap() is a bare system call. As libwayland does for pools whose client shrinks the file.
void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const int saved = errno;
  for (BusGuard* guard = guards.load(std::memory_order_acquire); guard != nullptr; guard = guard->next) {
    const std::uintptr_t begin = guard->begin.load(std::memory_order_acquire);
    const std::uintptr_t end = guard->end.load(std::memory_order_acquire);
    if (address < begin || address >= end) continue;
    guard->truncated.store(true, std::memory_order_release);
    void* replaced = mmap(reinterpret_cast<void*>(begin), end - begin, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
    errno = saved;
    if (replaced != MAP_FAILED) return;
    break;
  }
  // Not ours: what was there before us decides.
  if ((former_action.sa_flags & SA_SIGINFO) != 0) {
    former_action.sa_sigaction(signal, info, context);
  } else if (former_action.sa_handler == SIG_DFL || former_action.sa_handler == SIG_IGN) {
    ::signal(signal, SIG_DFL);  // the instruction is repeated and the process dies of it
  } else {
    former_action.sa_handler(signal);
  }
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &former_action) != 0) throw SystemError(errno, "sigaction", "cannot handle SIGBUS");
  });
}

BusGuard* claim_guard(std::uintptr_t begin, std::uintptr_t end) {
  BusGuard* guard = guards.load(std::memory_order_acquire);
  for (; guard != nullptr; guard = guard->next) {
    bool expected = false;
    if (guard->used.compare_exchange_strong(expected, true)) break;
  }
  if (guard == nullptr) {
    guard = new BusGuard;
    guard->used.store(true);
    guard->next = guards.load(std::memory_order_acquire);
    while (!guards.compare_exchange_weak(guard->next, guard)) {
    }
  }
  guard->truncated.store(false);
  guard->begin.store(begin);
  guard->end.store(end);
  return guard;
}

void release_guard(BusGuard* guard) {
  guard->end.store(0);
  guard->begin.store(0);
  guard->used.store(false);
}

std::uint64_t size_of(const File& file) {
  struct stat status {};
  if (fstat(file.fd(), &status) != 0) throw SystemError(errno, "fstat", "cannot inspect the region file");
  if (!S_ISREG(status.st_mode)) throw SystemError(EINVAL, "fstat", "the region is not a regular file");
  return static_cast<std::uint64_t>(status.st_size);
}

int protection_of(const File& file) {
  return (fcntl(file.fd(), F_GETFL) & O_ACCMODE) == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ;
}

// A guest made the list up.
void check_pieces(std::vector<Piece> pieces, std::uint64_t bytes, std::uint64_t file_bytes) {
  const auto refuse = [](int error, const char* why) { throw SystemError(error, "mmap", why); };
  if (pieces.empty() || pieces.size() > kPiecesMax) refuse(EINVAL, "a region has 1 … 256 pieces");
  std::uint64_t total = 0;
  for (const Piece& piece : pieces) {
    if (piece.bytes == 0 || piece.bytes % kPageBytes != 0 || piece.offset % kPageBytes != 0) {
      refuse(EINVAL, "a piece of a region is not of whole pages");
    }
    if (piece.offset > file_bytes || piece.bytes > file_bytes - piece.offset) {
      refuse(ERANGE, "a piece of a region does not lie in the file");
    }
    if (piece.bytes > bytes - total) refuse(EINVAL, "the pieces of a region are longer than the region");
    total += piece.bytes;
  }
  if (total != bytes) refuse(EINVAL, "the pieces of a region are shorter than the region");
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    if (pieces[i].offset < pieces[i - 1].offset + pieces[i - 1].bytes) refuse(EINVAL, "pieces of a region overlap");
  }
}

}  // namespace

File::File(const std::string& path, bool writable)
    : fd_(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK)) {
  if (fd_ < 0) throw SystemError(errno, "open", "cannot open region file " + path);
}

File::File(int fd) : fd_(fcntl(fd, F_DUPFD_CLOEXEC, 0)) {
  if (fd_ < 0) throw SystemError(errno, "fcntl", "cannot duplicate the region's file descriptor");
}

File::~File() { close(fd_); }

Mapping::Mapping(const File& file, std::uint64_t bytes) : bytes_(bytes) {
  const std::uint64_t size = size_of(file);
  if (bytes == 0 || size < bytes) {
    throw SystemError(ERANGE, "fstat",
                      "the region file has " + std::to_string(size) + " bytes, not " + std::to_string(bytes));
  }
  install_handler();
  void* mapped = mmap(nullptr, bytes, protection_of(file), MAP_SHARED, file.fd(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap", "cannot map the region file");
  base_ = static_cast<std::uint8_t*>(mapped);
  guard();
}

Mapping::Mapping(const File& file, std::uint64_t bytes, const std::vector<Piece>& pieces) : bytes_(bytes) {
  check_pieces(pieces, bytes, size_of(file));
  install_handler();
  void* reserved = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) throw SystemError(errno, "mmap", "cannot find room for the region");
  base_ = static_cast<std::uint8_t*>(reserved);
  std::uint8_t* at = base_;
  for (const Piece& piece : pieces) {
    const auto offset = static_cast<off_t>(piece.offset);
    if (mmap(at, piece.bytes, protection_of(file), MAP_SHARED | MAP_FIXED, file.fd(), offset) == MAP_FAILED) {
      const int error = errno;
      munmap(base_, bytes_);
      throw SystemError(error, "mmap", "cannot map a piece of the region");
    }
    at += piece.bytes;
  }
  guard();
}

void Mapping::guard() {
  const auto begin = reinterpret_cast<std::uintptr_t>(base_);
  guard_ = claim_guard(begin, begin + bytes_);
  // Only where the reader has something to say may it write, so that a mistake of ours cannot harm the guest's half.
  mprotect(base_, bytes_, PROT_READ);
}

Mapping::~Mapping() {
  release_guard(guard_);
  munmap(base_, bytes_);
}

void Mapping::allow_writes(std::uint64_t offset, std::uint64_t bytes) {
  if (mprotect(base_ + offset, bytes, PROT_READ | PROT_WRITE) != 0) {
    throw SystemError(errno, "mprotect", "cannot write to the region");
  }
}

const std::atomic<bool>& Mapping::truncated() const { return guard_->truncated; }

}  // namespace vesper::relay
