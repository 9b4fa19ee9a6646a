// SPDX-License-Identifier: Apache-2.0
#include "region_server.h"

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "js_error.h"
#include "mapping.h"
#include "system_error.h"

namespace vesper::relay {
namespace {

// The first message, and the number of the guest among the peers of its region.
constexpr std::int64_t kProtocolVersion = 0;
constexpr std::int64_t kGuest = 0;
// Goes with the descriptor of the memory.
constexpr std::int64_t kMemory = -1;

// Closes its descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int fd() const { return fd_; }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

void send_message(int socket, std::int64_t number, int descriptor) {
  std::uint64_t bytes = htole64(static_cast<std::uint64_t>(number));
  iovec part{&bytes, sizeof(bytes)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
  }
  // Few bytes into an empty buffer: it is sent whole, or not at all.
  if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != static_cast<ssize_t>(sizeof(bytes)))
    throw SystemError(errno, "sendmsg", "cannot hand the region over");
}

}  // namespace

struct RegionOffer {
  RegionOffer(std::string socket_path, const std::string& region_path, const std::string& doorbell_path)
      : path(std::move(socket_path)), region(region_path, true) {
    doorbell = Descriptor(open(doorbell_path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    if (doorbell.fd() < 0) throw SystemError(errno, "open", "cannot open " + doorbell_path);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) throw SystemError(ENAMETOOLONG, "bind", "cannot listen at " + path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    listener = Descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (listener.fd() < 0) throw SystemError(errno, "socket", "cannot listen at " + path);
    if (bind(listener.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
      throw SystemError(errno, "bind", "cannot listen at " + path);
    if (chmod(path.c_str(), 0600) != 0 || listen(listener.fd(), 1) != 0) {
      const int error = errno;
      unlink(path.c_str());
      throw SystemError(error, "listen", "cannot listen at " + path);
    }
    listening = true;
  }
  ~RegionOffer() { close(); }

  // Waits for the VMM. The connection stays open: QEMU reads from it only when the device is made.
  void serve(std::uint16_t peer, int limit_ms) {
    {
      const std::lock_guard lock(mutex);
      if (!listening || serving) throw SystemError(EBADF, "accept", "no region is offered at " + path);
      serving = true;
    }
    try {
      hand_over(peer, limit_ms);
    } catch (...) {
      served();
      throw;
    }
    served();
  }

  // Who is being served is cut off.
  void close() {
    const std::lock_guard lock(mutex);
    if (!std::exchange(listening, false)) return;
    unlink(path.c_str());
    if (serving) {
      shutdown(listener.fd(), SHUT_RDWR);
    } else {
      release();
    }
  }

  const std::string path;

 private:
  void hand_over(std::uint16_t peer, int limit_ms) {
    pollfd ready{listener.fd(), POLLIN, 0};
    const int found = poll(&ready, 1, limit_ms);
    if (found < 0) throw SystemError(errno, "poll", "cannot wait at " + path);
    if (found == 0) throw SystemError(ETIMEDOUT, "poll", "nobody came for the region to " + path);
    connection = Descriptor(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection.fd() < 0) throw SystemError(errno, "accept", "nobody came for the region to " + path);
    send_message(connection.fd(), kProtocolVersion, -1);
    send_message(connection.fd(), kGuest, -1);
    // Before the memory, with which the VMM stops waiting: then the doorbell is there when the device is.
    send_message(connection.fd(), peer, doorbell.fd());
    send_message(connection.fd(), kMemory, region.fd());
  }

  void served() {
    const std::lock_guard lock(mutex);
    serving = false;
    if (!listening) release();
  }

  void release() {
    connection.reset();
    listener.reset();
  }

  const File region;
  Descriptor doorbell;
  Descriptor listener;
  Descriptor connection;
  std::mutex mutex;
  bool listening = false;
  bool serving = false;
};

namespace {

class Serve : public Napi::AsyncWorker {
 public:
  Serve(Napi::Env env, std::shared_ptr<RegionOffer> offer, std::uint16_t peer, int limit_ms)
      : Napi::AsyncWorker(env), deferred_(env), offer_(std::move(offer)), peer_(peer), limit_ms_(limit_ms) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      offer_->serve(peer_, limit_ms_);
    } catch (const SystemError& failed) {
      failed_ = failed;
    }
  }

  void OnOK() override {
    if (failed_.has_value()) {
      deferred_.Reject(js_error(Env(), *failed_).Value());
    } else {
      deferred_.Resolve(Env().Undefined());
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<RegionOffer> offer_;
  const std::uint16_t peer_;
  const int limit_ms_;
  std::optional<SystemError> failed_;
};

std::string text(const Napi::CallbackInfo& info, std::size_t index, const char* what) {
  if (!info[index].IsString()) throw js_error(info.Env(), "EINVAL", std::string(what) + " has to be a path");
  return info[index].As<Napi::String>().Utf8Value();
}

}  // namespace

Napi::Function RegionServer::define(Napi::Env env) {
  return DefineClass(env, "RegionServer",
                     {
                         InstanceMethod<&RegionServer::serve>("serve"),
                         InstanceMethod<&RegionServer::close>("close"),
                     });
}

RegionServer::RegionServer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<RegionServer>(info) {
  guarded(info.Env(), [&] {
    offer_ = std::make_shared<RegionOffer>(text(info, 0, "the socket"), text(info, 1, "the region"),
                                           text(info, 2, "the doorbell"));
  });
}

Napi::Value RegionServer::serve(const Napi::CallbackInfo& info) {
  if (!info[0].IsNumber() || !info[1].IsNumber())
    throw js_error(info.Env(), "EINVAL", "the number of the peer and a time limit in ms are needed");
  const auto peer = static_cast<std::uint16_t>(info[0].As<Napi::Number>().Uint32Value());
  auto* work = new Serve(info.Env(), offer_, peer, info[1].As<Napi::Number>().Int32Value());
  work->Queue();  // deletes itself
  return work->promise();
}

void RegionServer::close(const Napi::CallbackInfo&) { offer_->close(); }

void make_doorbell(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const std::string path = text(info, 0, "the doorbell");
    if (mkfifo(path.c_str(), 0600) != 0) throw SystemError(errno, "mkfifo", "cannot make " + path);
  });
}

}  // namespace vesper::relay
