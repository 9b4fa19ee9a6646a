// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <libvirt/libvirt.h>
#include <napi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "data.h"
#include "mailbox.h"

namespace vesper::libvirt {

// Carries the events of one subscription to its listener. What waits for the listener is bounded: beyond that events
// are counted, and the listener is told how many.
class EventSink : public std::enable_shared_from_this<EventSink> {
 public:
  static constexpr unsigned kBacklog = 16'384;

  EventSink(std::shared_ptr<Mailbox> mailbox, std::uint64_t id) : mailbox_(std::move(mailbox)), id_(id) {}

  // From libvirt's event loop.
  void emit(const char* kind, virDomainPtr domain, Fields details);

  // Nobody waits for it to be registered any more.
  void give_up() { given_up_ = true; }
  bool given_up() const { return given_up_; }

 private:
  void deliver(Napi::Env env, const Fields& event);

  const std::shared_ptr<Mailbox> mailbox_;
  const std::uint64_t id_;
  std::atomic<unsigned> waiting_ = 0;
  std::atomic<unsigned> lost_ = 0;
  std::atomic<bool> given_up_ = false;
};

// Of which libvirt can tell. nullptr: there is none of that name.
struct EventKind {
  const char* name;
  int id;
  virConnectDomainEventGenericCallback callback;
};
const EventKind* event_kind(const std::string& name);
std::string event_kind_names();

// On a thread that may block; `domain` may be nullptr: of all. Returns the callback's id. Throws Failure.
int register_event(virConnectPtr connection, virDomainPtr domain, const EventKind& kind,
                   const std::shared_ptr<EventSink>& sink);

}  // namespace vesper::libvirt
