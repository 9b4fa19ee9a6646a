// SPDX-License-Identifier: Apache-2.0
#include "subscription.h"

#include <optional>
#include <utility>

#include "arguments.h"
#include "environment.h"
#include "events.h"

namespace vesper::libvirt {

Napi::Function Subscription::define(Napi::Env env) {
  return DefineClass(env, "Subscription", {InstanceMethod<&Subscription::close>("close")});
}

Subscription::Subscription(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Subscription>(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a subscription comes from subscribe()");
  parts_ = *info[0].As<Napi::External<Parts>>().Data();
}

Napi::Value Subscription::subscribe(const Napi::CallbackInfo& info, const std::shared_ptr<Session>& session) {
  const Napi::Env env = info.Env();
  const std::string name = text_argument(info, 0, "the kind");
  const EventKind* kind = event_kind(name);
  if (kind == nullptr)
    throw Napi::TypeError::New(env, "there are no events \"" + name + "\": there are " + event_kind_names());
  if (!info[1].IsFunction()) throw Napi::TypeError::New(env, "a subscription needs a function to call");
  const Options options(info, 2);
  const auto uuid = options.text("domain");
  const auto limit = options.time_limit(session->limit());
  if (!session->closed().empty()) return rejected(env, session->closed_failure());

  auto& environment = Environment::of(env);
  const std::uint64_t id = environment.next_id();
  environment.subscribers.emplace(id, Environment::Subscriber{session, Napi::Persistent(info[1].As<Napi::Function>())});
  const auto sink = std::make_shared<EventSink>(environment.mailbox, id);
  const auto work = [connection = session->reference(), uuid, kind, sink]() -> Data {
    DomainRef domain;
    if (uuid) {
      domain = adopt_domain(connection, checked(virDomainLookupByUUIDString(connection->get(), uuid->c_str()),
                                                "virDomainLookupByUUIDString"));
    }
    const int callback_id = register_event(connection->get(), domain.get(), *kind, sink);
    if (sink->given_up()) {
      virConnectDomainEventDeregisterAny(connection->get(), callback_id);
    } else {
      connection->has_event(callback_id);
    }
    return callback_id;
  };
  const auto convert = [session, id](Napi::Env js, const Data& callback_id) -> Napi::Value {
    Parts parts{session, id, static_cast<int>(std::get<double>(callback_id.held))};
    return Environment::of(js).subscription_class.New({Napi::External<Parts>::New(js, &parts)});
  };
  return session->start(env, limit, work, convert, [env, id, sink] {
    sink->give_up();
    Environment::of(env).subscribers.erase(id);
  });
}

Napi::Value Subscription::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Session& session = *parts_.session;
  const auto limit = Options(info, 0).time_limit(session.limit());
  Environment::of(env).subscribers.erase(parts_.id);
  if (!session.closed().empty()) {
    const auto done = Napi::Promise::Deferred::New(env);
    done.Resolve(env.Undefined());
    return done.Promise();
  }
  return parts_.session->start(env, limit, [connection = session.reference(), id = parts_.callback_id]() -> Data {
    if (connection->take_event(id)) {
      checked(virConnectDomainEventDeregisterAny(connection->get(), id), "virConnectDomainEventDeregisterAny");
    }
    return {};
  });
}

}  // namespace vesper::libvirt
