// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <chrono>
#include <functional>
#include <memory>

#include "reference.h"
#include "session.h"

namespace vesper::libvirt {

// JavaScript: a connection to a libvirt daemon.
class Connection : public Napi::ObjectWrap<Connection> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit Connection(const Napi::CallbackInfo& info);

 private:
  using Work = std::function<Data(const ConnectionRef&)>;

  static Napi::Value open(const Napi::CallbackInfo& info);

  // A call with the options at `index`, of which it takes the time limit.
  Napi::Value call(const Napi::CallbackInfo& info, std::size_t index, Work work);
  Napi::Value run(const Napi::CallbackInfo& info, std::chrono::milliseconds limit, Work work);

  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value is_open(const Napi::CallbackInfo& info);
  Napi::Value closed(const Napi::CallbackInfo& info);
  Napi::Value abandoned_calls(const Napi::CallbackInfo& info);
  Napi::Value describe(const Napi::CallbackInfo& info);
  Napi::Value capabilities(const Napi::CallbackInfo& info);
  Napi::Value list_domains(const Napi::CallbackInfo& info);
  Napi::Value domain_by_name(const Napi::CallbackInfo& info);
  Napi::Value domain_by_uuid(const Napi::CallbackInfo& info);
  Napi::Value domain_by_id(const Napi::CallbackInfo& info);
  Napi::Value define_domain(const Napi::CallbackInfo& info);
  Napi::Value create_domain(const Napi::CallbackInfo& info);
  Napi::Value restore(const Napi::CallbackInfo& info);
  Napi::Value statistics(const Napi::CallbackInfo& info);
  Napi::Value subscribe(const Napi::CallbackInfo& info);

  std::shared_ptr<Session> session_;
  Napi::ObjectReference closed_;
};

}  // namespace vesper::libvirt
