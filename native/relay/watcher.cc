// SPDX-License-Identifier: Apache-2.0
#include "watcher.h"

#include <chrono>

#include "js_error.h"
#include "region.h"

namespace vesper::relay {
namespace {

std::chrono::nanoseconds duration(const Napi::Value& options, const char* name, std::chrono::nanoseconds otherwise) {
  if (!options.IsObject()) return otherwise;
  const Napi::Value value = options.As<Napi::Object>().Get(name);
  if (value.IsUndefined()) return otherwise;
  const double ns = value.ToNumber().DoubleValue();
  if (!(ns >= 1000 && ns <= 1e10))
    throw js_error(options.Env(), "EINVAL", std::string(name) + " has to be 1 µs … 10 s");
  return std::chrono::nanoseconds(static_cast<std::int64_t>(ns));
}

}  // namespace

Napi::Function Watcher::define(Napi::Env env) {
  return DefineClass(env, "Watcher",
                     {
                         InstanceMethod<&Watcher::add>("add"),
                         InstanceMethod<&Watcher::remove>("remove"),
                         InstanceMethod<&Watcher::wake>("wake"),
                         InstanceMethod<&Watcher::done>("done"),
                         InstanceMethod<&Watcher::close>("close"),
                         InstanceAccessor<&Watcher::awake>("awake"),
                     });
}

Watcher::Watcher(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Watcher>(info), env_(info.Env()) {
  const Napi::Env env = info.Env();
  if (!info[0].IsFunction()) throw js_error(env, "EINVAL", "a watcher needs a function to call");
  Poller::Timing timing;
  timing.shortest = duration(info[1], "pollNs", timing.shortest);
  timing.longest = std::max(timing.shortest, duration(info[1], "longestPollNs", timing.longest));
  timing.quiet = duration(info[1], "quietNs", timing.quiet);

  // One place in the queue: a call that waits to run will see everything that became ready before it runs.
  ready_ = Napi::ThreadSafeFunction::New(env, info[0].As<Napi::Function>(), "vesper-relay", 1, 1);
  ready_.Unref(env);
  poller_ = std::make_shared<Poller>(timing, [this] {
    // `this` outlives the thread: stop() joins it.
    ready_.NonBlockingCall([poller = std::weak_ptr<Poller>(poller_)](Napi::Env js, Napi::Function callback) {
      const auto alive = poller.lock();
      if (js == nullptr || alive == nullptr) return;
      const auto ids = alive->take_ready();
      if (ids.empty()) return;
      const auto list = Napi::Array::New(js, ids.size());
      for (std::uint32_t i = 0; i < ids.size(); ++i) list.Set(i, Napi::Number::New(js, ids[i]));
      callback.Call({list});
    });
  });
  // Registered after the hook of the thread-safe function, so it runs before it.
  napi_add_env_cleanup_hook(env_, on_environment_exit, this);
}

Watcher::~Watcher() { stop(); }

void Watcher::on_environment_exit(void* self) {
  auto* watcher = static_cast<Watcher*>(self);
  watcher->stopped_ = true;  // the environment itself disposes of the thread-safe function
  watcher->poller_->stop();
}

void Watcher::stop() {
  if (stopped_ || poller_ == nullptr) return;
  stopped_ = true;
  poller_->stop();
  napi_remove_env_cleanup_hook(env_, on_environment_exit, this);
  ready_.Abort();
}

void Watcher::add(const Napi::CallbackInfo& info) {
  Region& region = Region::from(info[0]);
  if (!info[1].IsNumber()) throw js_error(info.Env(), "EINVAL", "an id is needed");
  if (stopped_) throw js_error(info.Env(), "EBADF", "the watcher is closed");
  poller_->add(region.writable_reader(info.Env()), info[1].As<Napi::Number>().Uint32Value());
  region.polled_by(poller_);
}

void Watcher::remove(const Napi::CallbackInfo& info) { poller_->remove(Region::from(info[0]).key()); }

void Watcher::wake(const Napi::CallbackInfo& info) { poller_->wake(Region::from(info[0]).key()); }

void Watcher::done(const Napi::CallbackInfo& info) { poller_->done(Region::from(info[0]).key()); }

void Watcher::close(const Napi::CallbackInfo&) { stop(); }

Napi::Value Watcher::awake(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(poller_->awake()));
}

}  // namespace vesper::relay
