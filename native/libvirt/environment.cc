// SPDX-License-Identifier: Apache-2.0
#include "environment.h"

#include <utility>
#include <vector>

#include "feed.h"

namespace vesper::libvirt {

Napi::Promise rejected(Napi::Env env, const Failure& why) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  deferred.Reject(why.to_js(env).Value());
  return deferred.Promise();
}

std::pair<Napi::Promise, Job::Settle> Environment::promise(Napi::Env env, Convert convert, Failed failed) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  const std::uint64_t id = next_id();
  calls_.emplace(id, Call{deferred, std::move(convert), std::move(failed)});
  mailbox->hold();
  return {deferred.Promise(), [box = mailbox, id](Outcome outcome) {
            box->post([id, outcome = std::move(outcome)](Napi::Env js) { of(js).settle(js, id, outcome); });
          }};
}

void Environment::settle(Napi::Env env, std::uint64_t id, const Outcome& outcome) {
  auto call = calls_.extract(id);
  if (call.empty()) return;
  mailbox->let_go();
  const Call& ended = call.mapped();
  if (const auto* failure = std::get_if<Failure>(&outcome)) {
    if (ended.failed != nullptr) ended.failed();
    ended.deferred.Reject(failure->to_js(env).Value());
    return;
  }
  Napi::Value result;
  try {
    result = ended.convert(env, std::get<Data>(outcome));
  } catch (const Failure& failure) {
    ended.deferred.Reject(failure.to_js(env).Value());
    return;
  } catch (const Napi::Error& thrown) {
    ended.deferred.Reject(thrown.Value());
    return;
  }
  ended.deferred.Resolve(result);
}

void Environment::connection_closed(Napi::Env env, const Session& session, const Failure& why) {
  std::erase_if(subscribers, [&](const auto& entry) { return entry.second.session.get() == &session; });
  std::vector<std::uint64_t> ended;
  for (const auto& [id, reader] : readers) {
    if (reader.session.get() == &session) ended.push_back(id);
  }
  for (const std::uint64_t id : ended) Feed::end(env, id, why);
}

}  // namespace vesper::libvirt
