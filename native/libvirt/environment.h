// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "job.h"
#include "mailbox.h"

namespace vesper::libvirt {

class Session;

// What the addon keeps for one environment; touched on its thread only.
class Environment {
 public:
  using Convert = std::function<Napi::Value(Napi::Env, const Data&)>;
  using Failed = std::function<void()>;

  explicit Environment(Napi::Env env) : mailbox(Mailbox::create(env)) {}

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // A promise, and the function that settles it from any thread. Until then the event loop is kept alive. `failed` is
  // called before it is rejected.
  std::pair<Napi::Promise, Job::Settle> promise(Napi::Env env, Convert convert, Failed failed = nullptr);

  std::uint64_t next_id() { return ++last_id_; }

  // Ends what belongs to a connection that is closed.
  void connection_closed(Napi::Env env, const Session& session, const Failure& why);

  struct Subscriber {
    std::shared_ptr<Session> session;
    Napi::FunctionReference listener;
  };
  struct Reader {
    std::shared_ptr<Session> session;
    StreamRef stream;
    Napi::FunctionReference on_data;
    Napi::FunctionReference on_end;
  };
  // Somebody waits for the end of this connection.
  struct Watch {
    std::shared_ptr<Session> session;
    Napi::Promise::Deferred closed;
  };

  const std::shared_ptr<Mailbox> mailbox;
  Napi::FunctionReference connection_class;
  Napi::FunctionReference domain_class;
  Napi::FunctionReference stream_class;
  Napi::FunctionReference subscription_class;
  std::unordered_map<std::uint64_t, Subscriber> subscribers;
  std::unordered_map<std::uint64_t, Reader> readers;
  std::unordered_map<std::uint64_t, Watch> watches;

 private:
  struct Call {
    Napi::Promise::Deferred deferred;
    Convert convert;
    Failed failed;
  };

  void settle(Napi::Env env, std::uint64_t id, const Outcome& outcome);

  std::unordered_map<std::uint64_t, Call> calls_;
  std::uint64_t last_id_ = 0;
};

// A promise that is rejected already.
Napi::Promise rejected(Napi::Env env, const Failure& why);

}  // namespace vesper::libvirt
