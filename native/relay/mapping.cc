// SPDX-License-Identifier: Apache-2.0
#include "mapping.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "system_error.h"

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
  struct stat status {};
  if (fstat(file.fd(), &status) != 0) throw SystemError(errno, "fstat", "cannot inspect the region file");
  if (!S_ISREG(status.st_mode)) throw SystemError(EINVAL, "fstat", "the region is not a regular file");
  if (bytes == 0 || static_cast<std::uint64_t>(status.st_size) < bytes) {
    throw SystemError(ERANGE, "fstat",
                      "the region file has " + std::to_string(status.st_size) + " bytes, not " + std::to_string(bytes));
  }
  install_handler();
  const bool writable = (fcntl(file.fd(), F_GETFL) & O_ACCMODE) == O_RDWR;
  void* mapped = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file.fd(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap", "cannot map the region file");
  base_ = static_cast<std::uint8_t*>(mapped);
  const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
  guard_ = claim_guard(begin, begin + bytes);
  // Only where the reader has something to say may it write, so that a mistake of ours cannot harm the guest's half.
  if (writable) mprotect(mapped, bytes, PROT_READ);
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
