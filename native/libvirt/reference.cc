// SPDX-License-Identifier: Apache-2.0
#include "reference.h"

#include <algorithm>
#include <system_error>

#include "thread.h"

namespace vesper::libvirt {
namespace {

thread_local bool may_block = false;

}  // namespace

void allow_blocking() { may_block = true; }

void on_blocking_thread(std::function<void()> work) {
  if (may_block) {
    work();
    return;
  }
  try {
    start_thread("libvirt-close", [work] {
      allow_blocking();
      work();
    });
  } catch (const std::system_error&) {
    work();  // No thread is to be had: late is better than never.
  }
}

ConnectionRef OpenConnection::adopt(virConnectPtr connection) {
  return {new OpenConnection(connection), [](OpenConnection* last) { on_blocking_thread([last] { delete last; }); }};
}

void OpenConnection::has_event(int callback_id) {
  const std::lock_guard lock(mutex_);
  events_.push_back(callback_id);
}

bool OpenConnection::take_event(int callback_id) {
  const std::lock_guard lock(mutex_);
  return std::erase(events_, callback_id) > 0;
}

OpenConnection::~OpenConnection() {
  // Of a connection that broke, libvirt forgets the callbacks although it reports a failure.
  for (const int id : events_) virConnectDomainEventDeregisterAny(connection_, id);
  if (close_callback_ != nullptr) virConnectUnregisterCloseCallback(connection_, close_callback_);
  virConnectClose(connection_);
}

DomainRef adopt_domain(const ConnectionRef& connection, virDomainPtr domain) {
  return {domain, [connection](virDomainPtr last) { virDomainFree(last); }};
}

StreamRef OpenStream::adopt(const ConnectionRef& connection, virStreamPtr stream) {
  return {new OpenStream(connection, stream), [](OpenStream* last) { on_blocking_thread([last] { delete last; }); }};
}

OpenStream::~OpenStream() {
  if (callback_) virStreamEventRemoveCallback(stream_);
  // Fails where the stream has ended already; what it occupies is freed either way.
  virStreamAbort(stream_);
  virStreamFree(stream_);
}

}  // namespace vesper::libvirt
