// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <libvirt/libvirt.h>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace vesper::libvirt {

// Closing a connection is a call to the daemon, so whoever drops the last reference, it happens on a thread that may
// block: this one where it is a worker's, else one of its own.
void on_blocking_thread(std::function<void()> work);

// Marks this thread as one that may block.
void allow_blocking();

// An open connection and what was registered with it: callbacks hold references of libvirt's own, and the connection
// stays open until they are taken back.
class OpenConnection {
 public:
  static std::shared_ptr<OpenConnection> adopt(virConnectPtr connection);
  OpenConnection(const OpenConnection&) = delete;
  OpenConnection& operator=(const OpenConnection&) = delete;

  virConnectPtr get() const { return connection_; }

  void has_close_callback(virConnectCloseFunc callback) { close_callback_ = callback; }
  void has_event(int callback_id);
  // False: it is taken back already.
  bool take_event(int callback_id);

 private:
  explicit OpenConnection(virConnectPtr connection) : connection_(connection) {}
  ~OpenConnection();

  virConnectPtr connection_;
  virConnectCloseFunc close_callback_ = nullptr;
  std::mutex mutex_;
  std::vector<int> events_;
};

using ConnectionRef = std::shared_ptr<OpenConnection>;

// A domain, which keeps its connection.
using DomainRef = std::shared_ptr<virDomain>;
DomainRef adopt_domain(const ConnectionRef& connection, virDomainPtr domain);

// A stream, which keeps its connection; aborted where it was not ended.
class OpenStream {
 public:
  static std::shared_ptr<OpenStream> adopt(const ConnectionRef& connection, virStreamPtr stream);
  OpenStream(const OpenStream&) = delete;
  OpenStream& operator=(const OpenStream&) = delete;

  virStreamPtr get() const { return stream_; }
  void has_callback() { callback_ = true; }

 private:
  OpenStream(const ConnectionRef& connection, virStreamPtr stream) : connection_(connection), stream_(stream) {}
  ~OpenStream();

  ConnectionRef connection_;
  virStreamPtr stream_;
  bool callback_ = false;
};

using StreamRef = std::shared_ptr<OpenStream>;

}  // namespace vesper::libvirt
