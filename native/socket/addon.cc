// SPDX-License-Identifier: Apache-2.0

// What Node's sockets lack: who is at the other end of a unix socket, and datagrams between unix sockets.

#include <napi.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace vesper::socket {
namespace {

// An Error with `code`, `errno` and `syscall`, as Node's own have them.
Napi::Error failed(Napi::Env env, int error, const char* syscall, const std::string& what) {
  const char* name = strerrorname_np(error);
  const std::string code = name == nullptr ? "EUNKNOWN" : name;
  auto thrown = Napi::Error::New(env, code + ": " + what + " (" + syscall + ": " + strerrordesc_np(error) + ")");
  thrown.Set("code", Napi::String::New(env, code));
  thrown.Set("errno", Napi::Number::New(env, error));
  thrown.Set("syscall", Napi::String::New(env, syscall));
  return thrown;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  const int fd_;
};

// peer(fd): { pid, uid, gid } of the process that connected, as the kernel noted them then (unix(7), SO_PEERCRED).
Napi::Value peer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ucred credentials{};
  socklen_t length = sizeof credentials;
  const int fd = info[0].As<Napi::Number>().Int32Value();
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    throw failed(env, errno, "getsockopt", "the peer of a socket is not known");
  auto result = Napi::Object::New(env);
  result.Set("pid", Napi::Number::New(env, credentials.pid));
  result.Set("uid", Napi::Number::New(env, credentials.uid));
  result.Set("gid", Napi::Number::New(env, credentials.gid));
  return result;
}

// send(path, text): one datagram to a unix socket; a path that begins with @ names one in the abstract namespace. Never
// waits.
void send(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>();
  const std::string text = info[1].As<Napi::String>();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) throw failed(env, ENAMETOOLONG, "sendto", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  // An abstract name ends with the address, any other with its NUL.
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (path[0] == '@' ? 0 : 1));
  const Descriptor datagrams(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (datagrams.get() < 0) throw failed(env, errno, "socket", path);
  const auto* to = reinterpret_cast<const sockaddr*>(&address);
  if (sendto(datagrams.get(), text.data(), text.size(), MSG_NOSIGNAL, to, length) < 0)
    throw failed(env, errno, "sendto", path);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("peer", Napi::Function::New(env, peer, "peer"));
  exports.Set("send", Napi::Function::New(env, send, "send"));
  return exports;
}

NODE_API_MODULE(socket, init)

}  // namespace
}  // namespace vesper::socket
