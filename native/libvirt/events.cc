// SPDX-License-Identifier: Apache-2.0
#include "events.h"

#include <iterator>
#include <optional>
#include <utility>

#include "environment.h"
#include "failure.h"
#include "listener.h"
#include "names.h"
#include "session.h"

namespace vesper::libvirt {
namespace {

EventSink& sink_of(void* opaque) { return **static_cast<std::shared_ptr<EventSink>*>(opaque); }

Data identity(virDomainPtr domain) {
  char uuid[VIR_UUID_STRING_BUFLEN] = "";
  virDomainGetUUIDString(domain, uuid);
  const auto id = static_cast<int>(virDomainGetID(domain));
  return Fields{{"name", virDomainGetName(domain)}, {"uuid", uuid}, {"id", id < 0 ? Data(nullptr) : Data(id)}};
}

void lifecycle(virConnectPtr, virDomainPtr domain, int event, int detail, void* opaque) {
  sink_of(opaque).emit("lifecycle", domain,
                       {{"event", lifecycle_event_name(event)}, {"detail", lifecycle_detail_name(event, detail)}});
}

void reboot(virConnectPtr, virDomainPtr domain, void* opaque) { sink_of(opaque).emit("reboot", domain, {}); }

void rtc_change(virConnectPtr, virDomainPtr domain, long long utc_offset, void* opaque) {
  sink_of(opaque).emit("rtc-change", domain, {{"utcOffsetSeconds", utc_offset}});
}

void watchdog(virConnectPtr, virDomainPtr domain, int action, void* opaque) {
  sink_of(opaque).emit("watchdog", domain, {{"action", watchdog_action_name(action)}});
}

void io_error(virConnectPtr, virDomainPtr domain, const char* path, const char* alias, int action, const char* reason,
              void* opaque) {
  sink_of(opaque).emit(
      "io-error", domain,
      {{"path", path}, {"alias", alias}, {"action", io_error_action_name(action)}, {"reason", reason}});
}

void control_error(virConnectPtr, virDomainPtr domain, void* opaque) {
  sink_of(opaque).emit("control-error", domain, {});
}

void block_job(virConnectPtr, virDomainPtr domain, const char* disk, int type, int state, void* opaque) {
  sink_of(opaque).emit("block-job", domain,
                       {{"disk", disk}, {"type", block_job_type_name(type)}, {"state", block_job_state_name(state)}});
}

void balloon_change(virConnectPtr, virDomainPtr domain, unsigned long long actual_kib, void* opaque) {
  sink_of(opaque).emit("balloon-change", domain, {{"actualKib", actual_kib}});
}

void device_added(virConnectPtr, virDomainPtr domain, const char* alias, void* opaque) {
  sink_of(opaque).emit("device-added", domain, {{"alias", alias}});
}

void device_removed(virConnectPtr, virDomainPtr domain, const char* alias, void* opaque) {
  sink_of(opaque).emit("device-removed", domain, {{"alias", alias}});
}

void device_removal_failed(virConnectPtr, virDomainPtr domain, const char* alias, void* opaque) {
  sink_of(opaque).emit("device-removal-failed", domain, {{"alias", alias}});
}

void agent_lifecycle(virConnectPtr, virDomainPtr domain, int state, int reason, void* opaque) {
  sink_of(opaque).emit("agent-lifecycle", domain,
                       {{"state", agent_state_name(state)}, {"reason", agent_reason_name(reason)}});
}

void migration_iteration(virConnectPtr, virDomainPtr domain, int iteration, void* opaque) {
  sink_of(opaque).emit("migration-iteration", domain, {{"iteration", iteration}});
}

void job_completed(virConnectPtr, virDomainPtr domain, virTypedParameterPtr parameters, int count, void* opaque) {
  sink_of(opaque).emit("job-completed", domain, {{"statistics", fields_of(parameters, count)}});
}

void metadata_change(virConnectPtr, virDomainPtr domain, int type, const char* uri, void* opaque) {
  sink_of(opaque).emit("metadata-change", domain, {{"type", metadata_type_name(type)}, {"uri", uri}});
}

void memory_failure(virConnectPtr, virDomainPtr domain, int recipient, int action, unsigned flags, void* opaque) {
  sink_of(opaque).emit("memory-failure", domain,
                       {{"recipient", memory_failure_recipient_name(recipient)},
                        {"action", memory_failure_action_name(action)},
                        {"actionRequired", (flags & VIR_DOMAIN_MEMORY_FAILURE_ACTION_REQUIRED) != 0},
                        {"recursive", (flags & VIR_DOMAIN_MEMORY_FAILURE_RECURSIVE) != 0}});
}

#define KIND(name, id, function) \
  { name, VIR_DOMAIN_EVENT_ID_##id, VIR_DOMAIN_EVENT_CALLBACK(function) }

const EventKind kKinds[] = {
    KIND("lifecycle", LIFECYCLE, lifecycle),
    KIND("reboot", REBOOT, reboot),
    KIND("rtc-change", RTC_CHANGE, rtc_change),
    KIND("watchdog", WATCHDOG, watchdog),
    KIND("io-error", IO_ERROR_REASON, io_error),
    KIND("control-error", CONTROL_ERROR, control_error),
    KIND("block-job", BLOCK_JOB_2, block_job),
    KIND("balloon-change", BALLOON_CHANGE, balloon_change),
    KIND("device-added", DEVICE_ADDED, device_added),
    KIND("device-removed", DEVICE_REMOVED, device_removed),
    KIND("device-removal-failed", DEVICE_REMOVAL_FAILED, device_removal_failed),
    KIND("agent-lifecycle", AGENT_LIFECYCLE, agent_lifecycle),
    KIND("migration-iteration", MIGRATION_ITERATION, migration_iteration),
    KIND("job-completed", JOB_COMPLETED, job_completed),
    KIND("metadata-change", METADATA_CHANGE, metadata_change),
    KIND("memory-failure", MEMORY_FAILURE, memory_failure),
};

#undef KIND

}  // namespace

const EventKind* event_kind(const std::string& name) {
  for (const EventKind& kind : kKinds) {
    if (name == kind.name) return &kind;
  }
  return nullptr;
}

std::string event_kind_names() {
  std::string names;
  for (const EventKind& kind : kKinds) names += (names.empty() ? "" : ", ") + std::string(kind.name);
  return names;
}

int register_event(virConnectPtr connection, virDomainPtr domain, const EventKind& kind,
                   const std::shared_ptr<EventSink>& sink) {
  auto opaque = std::make_unique<std::shared_ptr<EventSink>>(sink);
  const int id = checked(
      virConnectDomainEventRegisterAny(connection, domain, kind.id, kind.callback, opaque.get(),
                                       [](void* pointer) { delete static_cast<std::shared_ptr<EventSink>*>(pointer); }),
      "virConnectDomainEventRegisterAny");
  opaque.release();
  return id;
}

void EventSink::emit(const char* kind, virDomainPtr domain, Fields details) {
  if (waiting_ >= kBacklog) {
    ++lost_;
    return;
  }
  Fields event{{"kind", kind}, {"domain", identity(domain)}};
  event.insert(event.end(), std::make_move_iterator(details.begin()), std::make_move_iterator(details.end()));
  ++waiting_;
  mailbox_->post([self = shared_from_this(), event = std::move(event)](Napi::Env env) { self->deliver(env, event); });
}

void EventSink::deliver(Napi::Env env, const Fields& event) {
  --waiting_;
  const unsigned lost = lost_.exchange(0);
  auto& subscribers = Environment::of(env).subscribers;
  const auto found = subscribers.find(id_);
  if (found == subscribers.end()) return;
  // The listener may end the subscription while it runs.
  const auto session = found->second.session;
  const auto listener = found->second.listener.Value();
  if (lost > 0) tell(listener, {session->to_js(env, Fields{{"kind", "lost"}, {"count", lost}})});
  tell(listener, {session->to_js(env, event)});
}

}  // namespace vesper::libvirt
