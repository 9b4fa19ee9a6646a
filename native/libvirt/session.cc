// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <libvirt/virterror.h>

#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "domain.h"
#include "event_loop.h"
#include "names.h"

namespace vesper::libvirt {
namespace {

// Called by libvirt while it opens, on the thread that opens.
int answer(virConnectCredentialPtr asked, unsigned count, void* opaque) {
  const auto& answers = *static_cast<const std::map<std::string, std::string>*>(opaque);
  for (unsigned i = 0; i < count; ++i) {
    const auto found = answers.find(credential_name(asked[i].type));
    if (found == answers.end()) return -1;
    asked[i].result = strdup(found->second.c_str());  // libvirt frees it
    if (asked[i].result == nullptr) return -1;
    asked[i].resultlen = static_cast<unsigned>(found->second.size());
  }
  return 0;
}

std::vector<int> answerable(const std::map<std::string, std::string>& answers) {
  std::vector<int> types;
  for (int type = VIR_CRED_USERNAME; type <= VIR_CRED_EXTERNAL; ++type) {
    if (answers.contains(credential_name(type))) types.push_back(type);
  }
  return types;
}

// Drivers without a daemon, as test:///, have neither keep-alive nor an end that nobody asked for.
void unless_unsupported(int result, const char* call) {
  if (result >= 0) return;
  const Failure failure = Failure::last(call);
  if (failure.libvirt_code != VIR_ERR_NO_SUPPORT) throw failure;
}

}  // namespace

Data Session::connect(const OpenRequest& request) {
  start_event_loop();
  auto answers = request.credentials;
  auto types = answerable(answers);
  virConnectAuth auth{types.data(), static_cast<unsigned>(types.size()), answer, &answers};
  const unsigned flags = request.read_only ? static_cast<unsigned>(VIR_CONNECT_RO) : 0U;
  const auto connection =
      OpenConnection::adopt(checked(virConnectOpenAuth(request.uri.c_str(), &auth, flags), "virConnectOpenAuth"));
  if (request.keep_alive) {
    unless_unsupported(virConnectSetKeepAlive(connection->get(), request.keep_alive->first, request.keep_alive->second),
                       "virConnectSetKeepAlive");
  }
  // From here on the environment's thread may take it: the callback can be called at once.
  connection_ = connection;
  const virConnectCloseFunc lost = [](virConnectPtr, int reason, void* opaque) {
    const auto& session = *static_cast<std::weak_ptr<Session>*>(opaque);
    const auto alive = session.lock();
    if (alive == nullptr) return;
    alive->mailbox_->post([session, reason](Napi::Env env) {
      if (const auto lost_one = session.lock()) lost_one->end(env, close_reason_name(reason));
    });
  };
  auto self = std::make_unique<std::weak_ptr<Session>>(weak_from_this());
  const int registered = virConnectRegisterCloseCallback(
      connection->get(), lost, self.get(), [](void* opaque) { delete static_cast<std::weak_ptr<Session>*>(opaque); });
  if (registered == 0) {
    self.release();
    connection->has_close_callback(lost);
  }
  unless_unsupported(registered, "virConnectRegisterCloseCallback");
  return {};
}

Napi::Promise Session::open(Napi::Env env, OpenRequest request,
                            std::function<Napi::Value(Napi::Env, const std::shared_ptr<Session>&)> convert) {
  const auto limit = request.limit;
  const auto session = std::make_shared<Session>(Environment::of(env).mailbox, request.uri, limit);
  return session->start(
      env, limit, [session, request = std::move(request)] { return session->connect(request); },
      [session, convert = std::move(convert)](Napi::Env js, const Data&) { return convert(js, session); });
}

Napi::Promise Session::start(Napi::Env env, std::chrono::milliseconds limit, Job::Work work,
                             Environment::Convert convert, Environment::Failed failed) {
  if (!closed_.empty()) return rejected(env, closed_failure());
  if (convert == nullptr) {
    convert = [self = shared_from_this()](Napi::Env js, const Data& value) { return self->to_js(js, value); };
  }
  auto [promise, settle] = Environment::of(env).promise(env, std::move(convert), std::move(failed));
  const auto job = std::make_shared<Job>(std::move(work), std::move(settle), limit);
  try {
    pool_->submit(job);
  } catch (const std::system_error& failed) {
    job->cancel(Failure("VIR_ERR_NO_MEMORY", std::string("no thread can be started: ") + failed.what()));
  }
  return promise;
}

const ConnectionRef& Session::reference() const {
  if (!closed_.empty()) throw closed_failure();
  return connection_;
}

Failure Session::closed_failure() const {
  return Failure("CLOSED", "the connection to " + uri_ + " is closed (" + closed_ + ")");
}

Napi::Promise Session::close(Napi::Env env, std::chrono::milliseconds limit) {
  auto [promise, settle] = Environment::of(env).promise(env, [](Napi::Env js, const Data&) { return js.Undefined(); });
  if (!closed_.empty()) {
    settle(Data());
    return promise;
  }
  end(env, close_reason_name(VIR_CONNECT_CLOSE_REASON_CLIENT));
  shut(std::move(settle), limit);
  return promise;
}

// The last job of the connection lets go of it. A daemon that hangs delays that, and nobody has to wait for it.
void Session::shut(Job::Settle settle, std::chrono::milliseconds limit) {
  if (settle == nullptr) settle = [](const Outcome&) {};
  const auto last =
      std::make_shared<Job>([connection = std::move(connection_)] { return Data(); }, std::move(settle), limit);
  connection_ = nullptr;
  try {
    pool_->finish(
        last, closed_.empty() ? Failure("CLOSED", "the connection to " + uri_ + " was not kept") : closed_failure());
  } catch (const std::system_error&) {
    last->cancel(Failure("CLOSED", "the connection is closed, though no thread could be started to tell the daemon"));
  }
}

void Session::end(Napi::Env env, const std::string& reason) {
  if (!closed_.empty()) return;
  const auto self = shared_from_this();  // what ends here may hold the last other reference
  closed_ = reason;
  const Failure why = closed_failure();
  auto& environment = Environment::of(env);
  for (Domain* domain : domains) domain->connection_closed();
  environment.connection_closed(env, *this, why);
  if (reason != close_reason_name(VIR_CONNECT_CLOSE_REASON_CLIENT)) shut(nullptr, limit_);
  for (auto watch = environment.watches.begin(); watch != environment.watches.end();) {
    if (watch->second.session != self) {
      ++watch;
      continue;
    }
    watch->second.closed.Resolve(Napi::String::New(env, reason));
    watch = environment.watches.erase(watch);
  }
}

Napi::Value Session::to_js(Napi::Env env, const Data& value) {
  return std::visit(
      [&](const auto& held) -> Napi::Value {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::monostate>) {
          return env.Undefined();
        } else if constexpr (std::is_same_v<Held, std::nullptr_t>) {
          return env.Null();
        } else if constexpr (std::is_same_v<Held, bool>) {
          return Napi::Boolean::New(env, held);
        } else if constexpr (std::is_same_v<Held, double>) {
          return Napi::Number::New(env, held);
        } else if constexpr (std::is_same_v<Held, std::string>) {
          return Napi::String::New(env, held);
        } else if constexpr (std::is_same_v<Held, List>) {
          const auto array = Napi::Array::New(env, held.size());
          for (std::size_t i = 0; i < held.size(); ++i) array.Set(static_cast<std::uint32_t>(i), to_js(env, held[i]));
          return array;
        } else if constexpr (std::is_same_v<Held, Fields>) {
          const auto object = Napi::Object::New(env);
          for (const auto& [name, field] : held) object.Set(name, to_js(env, field));
          return object;
        } else {
          return Domain::wrap(env, shared_from_this(), held);
        }
      },
      value.held);
}

}  // namespace vesper::libvirt
