// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <memory>

#include "poller.h"

namespace vesper::relay {

// JavaScript: new Watcher(onReady, options). Owns the poller's thread and carries its word to the event loop, which it
// does not keep alive.
class Watcher : public Napi::ObjectWrap<Watcher> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit Watcher(const Napi::CallbackInfo& info);
  ~Watcher() override;

 private:
  void add(const Napi::CallbackInfo& info);
  void remove(const Napi::CallbackInfo& info);
  void wake(const Napi::CallbackInfo& info);
  void done(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
  Napi::Value awake(const Napi::CallbackInfo& info);
  void stop();
  static void on_environment_exit(void* self);

  napi_env env_;
  Napi::ThreadSafeFunction ready_;
  std::shared_ptr<Poller> poller_;
  bool stopped_ = false;
};

}  // namespace vesper::relay
