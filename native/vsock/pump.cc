// SPDX-License-Identifier: Apache-2.0
#include "pump.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "system_error.h"

namespace vesper::vsock {
namespace {

constexpr std::size_t kBufferBytes = 64 << 10;
constexpr std::size_t kStackBytes = 256 << 10;
// Ports that only a privileged process can call from: the guest may insist on one.
constexpr unsigned kReservedFirst = 512;
constexpr unsigned kReservedLast = 1023;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Bytes on their way from one socket to the other.
class Flow {
 public:
  Flow(int from, int to) : from_(from), to_(to) {}

  bool wants_read() const { return !ended_ && end_ == 0; }
  bool wants_write() const { return start_ < end_; }
  // Its source has ended, and everything has been handed on.
  bool done() const { return ended_ && !wants_write(); }

  // False: nobody takes the bytes any more.
  bool turn() {
    if (wants_read()) {
      const ssize_t some = recv(from_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (some > 0) end_ = static_cast<std::size_t>(some);
      ended_ = some == 0 || (some < 0 && errno != EAGAIN && errno != EINTR);
    }
    while (wants_write()) {
      const ssize_t some = send(to_, buffer_.data() + start_, end_ - start_, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (some < 0) return errno == EAGAIN || errno == EINTR;
      start_ += static_cast<std::size_t>(some);
    }
    start_ = end_ = 0;
    return true;
  }

 private:
  const int from_;
  const int to_;
  bool ended_ = false;
  std::size_t start_ = 0;
  std::size_t end_ = 0;
  std::array<char, kBufferBytes> buffer_;
};

class Call {
 public:
  Call(Descriptor guest, Descriptor host, std::uint32_t cid, std::uint32_t port, int limit_ms)
      : guest_(std::move(guest)),
        host_(std::move(host)),
        cid_(cid),
        port_(port),
        limit_ms_(limit_ms),
        in_(guest_.fd(), host_.fd()),
        out_(host_.fd(), guest_.fd()) {}

  void run() {
    const int error = connect();
    const std::string line = error == 0 ? "OK " + std::to_string(own_port()) : "NO " + std::to_string(error);
    // The first bytes into an empty buffer: they are sent whole.
    if (send(host_.fd(), (line + "\n").c_str(), line.size() + 1, MSG_NOSIGNAL) < 0 || error != 0) return;
    carry();
  }

 private:
  // 0 or an errno.
  int connect() {
    bind_reserved();
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid_;
    address.svm_port = port_;
    if (::connect(guest_.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return 0;
    if (errno != EINPROGRESS) return errno;
    // The host's end of the pair hangs up when nobody waits for the call any more.
    std::array<pollfd, 2> set{pollfd{guest_.fd(), POLLOUT, 0}, pollfd{host_.fd(), 0, 0}};
    const int ready = poll(set.data(), set.size(), limit_ms_);
    if (ready < 0) return errno;
    if (set[0].revents == 0) return ETIMEDOUT;
    int error = 0;
    socklen_t bytes = sizeof(error);
    if (getsockopt(guest_.fd(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) return errno;
    return error;
  }

  // Where that is not allowed the kernel chooses a port.
  void bind_reserved() {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_ANY;
    for (unsigned port = kReservedLast; port >= kReservedFirst; --port) {
      address.svm_port = port;
      if (bind(guest_.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return;
      if (errno != EADDRINUSE) return;
    }
  }

  unsigned own_port() const {
    sockaddr_vm address{};
    socklen_t bytes = sizeof(address);
    getsockname(guest_.fd(), reinterpret_cast<sockaddr*>(&address), &bytes);
    return address.svm_port;
  }

  void carry() {
    bool hung_up = false;
    while (in_.turn() && out_.turn() && !in_.done() && !out_.done()) {
      std::array<pollfd, 2> set{pollfd{hung_up && !in_.wants_read() ? -1 : guest_.fd(), events(in_, out_), 0},
                                pollfd{host_.fd(), events(out_, in_), 0}};
      if (poll(set.data(), set.size(), -1) < 0 && errno != EINTR) return;
      // Whoever hangs up takes nothing any more; what it sent before is still handed on.
      for (pollfd& side : set)
        if ((side.revents & (POLLERR | POLLNVAL)) != 0) return;
      hung_up = hung_up || (set[0].revents & POLLHUP) != 0;
      if ((set[1].revents & POLLHUP) != 0 && !out_.wants_read()) return;
    }
  }

  // Of a socket from which `from` is read and to which `to` is written.
  static short events(const Flow& from, const Flow& to) {
    return static_cast<short>((from.wants_read() ? POLLIN : 0) | (to.wants_write() ? POLLOUT : 0));
  }

  const Descriptor guest_;
  const Descriptor host_;
  const std::uint32_t cid_;
  const std::uint32_t port_;
  const int limit_ms_;
  Flow in_;
  Flow out_;
};

void* run(void* call) {
  std::unique_ptr<Call>(static_cast<Call*>(call))->run();
  return nullptr;
}

void start(std::unique_ptr<Call> call) {
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  const int error = pthread_create(&thread, &attributes, run, call.get());
  pthread_attr_destroy(&attributes);
  if (error != 0) throw SystemError{error, "pthread_create"};
  call.release();
}

}  // namespace

int call(std::uint32_t cid, std::uint32_t port, int limit_ms) {
  Descriptor guest(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (guest.fd() < 0) throw SystemError{errno, "socket"};
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
    throw SystemError{errno, "socketpair"};
  Descriptor ours(pair[0]);
  Descriptor theirs(pair[1]);
  start(std::make_unique<Call>(std::move(guest), std::move(ours), cid, port, limit_ms));
  return theirs.release();
}

}  // namespace vesper::vsock
