// SPDX-License-Identifier: Apache-2.0
// The addon's calls over vsock's loopback, inside a guest: the host that runs the tests need not have vsock.
#include <poll.h>
#include <sys/socket.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "pump.h"

namespace {

constexpr unsigned kPort = 4000;
constexpr std::size_t kBytes = 8 << 20;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("wrong: %s\n", what);
  std::fflush(stdout);
  std::_Exit(1);
}

// Of a socket that does not block.
ssize_t read_some(int fd, char* to, std::size_t bytes) {
  pollfd one{fd, POLLIN, 0};
  expect(poll(&one, 1, 20000) == 1, "nothing came");
  return read(fd, to, bytes);
}

std::string line_of(int fd) {
  std::string line;
  for (char byte; read_some(fd, &byte, 1) == 1 && byte != '\n';) line += byte;
  return line;
}

int listen_here() {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = kPort;
  const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  expect(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 && listen(fd, 1) == 0, "listen");
  return fd;
}

char pattern(std::size_t at) { return static_cast<char>(at * 2654435761u >> 13); }

// Everything comes back, in order, although nobody reads while it is sent.
void echo(int listener) {
  const int ours = vesper::vsock::call(VMADDR_CID_LOCAL, kPort, 5000);
  const int theirs = accept(listener, nullptr, nullptr);
  const std::string line = line_of(ours);
  const unsigned own = line.starts_with("OK ") ? std::stoul(line.substr(3)) : 0;
  expect(own >= 512 && own <= 1023, "the call came from no reserved port");
  sockaddr_vm peer{};
  socklen_t size = sizeof(peer);
  getpeername(theirs, reinterpret_cast<sockaddr*>(&peer), &size);
  expect(peer.svm_port == own, "the port is not the one that was told");

  std::thread server([theirs] {
    char buffer[9000];
    for (ssize_t some; (some = read(theirs, buffer, sizeof(buffer))) > 0;)
      for (ssize_t sent = 0, more; sent < some; sent += more)
        expect((more = send(theirs, buffer + sent, some - sent, MSG_NOSIGNAL)) > 0, "the server cannot send");
    close(theirs);
  });
  std::thread writer([ours] {
    std::string chunk(7777, '\0');
    for (std::size_t at = 0; at < kBytes;) {
      const std::size_t bytes = std::min(chunk.size(), kBytes - at);
      for (std::size_t i = 0; i < bytes; ++i) chunk[i] = pattern(at + i);
      for (std::size_t sent = 0; sent < bytes;) {
        pollfd one{ours, POLLOUT, 0};
        expect(poll(&one, 1, 20000) == 1, "nobody takes anything");
        const ssize_t more = send(ours, chunk.data() + sent, bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (more > 0) sent += static_cast<std::size_t>(more);
      }
      at += bytes;
    }
  });
  char buffer[5000];
  for (std::size_t at = 0; at < kBytes;) {
    const ssize_t some = read_some(ours, buffer, sizeof(buffer));
    expect(some > 0, "the echo ended early");
    for (ssize_t i = 0; i < some; ++i, ++at) expect(buffer[i] == pattern(at), "other bytes came back");
  }
  writer.join();
  // The server's read ends only when the call does.
  close(ours);
  server.join();
}

// What the guest sent before it hung up still comes.
void farewell(int listener) {
  const int ours = vesper::vsock::call(VMADDR_CID_LOCAL, kPort, 5000);
  const int theirs = accept(listener, nullptr, nullptr);
  const std::string last(100000, 'x');
  std::size_t sent = 0;
  for (ssize_t more; sent < last.size(); sent += static_cast<std::size_t>(more))
    expect((more = send(theirs, last.data() + sent, last.size() - sent, MSG_NOSIGNAL)) > 0, "farewell");
  shutdown(theirs, SHUT_WR);
  expect(line_of(ours).starts_with("OK "), "the answer");
  std::size_t got = 0;
  char buffer[5000];
  for (ssize_t some; (some = read_some(ours, buffer, sizeof(buffer))) > 0;) got += static_cast<std::size_t>(some);
  expect(got == last.size(), "the end is missing");
  close(theirs);
  close(ours);
}

}  // namespace

int main() {
  const int listener = listen_here();
  echo(listener);
  farewell(listener);
  close(listener);
  const int nobody = vesper::vsock::call(VMADDR_CID_LOCAL, kPort + 1, 5000);
  expect(line_of(nobody) == "NO 104", "a call to nobody");
  char byte;
  expect(read_some(nobody, &byte, 1) == 0, "its end");
  std::puts("all is well");
}
