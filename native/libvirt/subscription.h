// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>

#include "session.h"

namespace vesper::libvirt {

// JavaScript: what connection.subscribe() resolves to. Dropping it changes nothing: it lasts until close(), or until
// the connection is closed.
class Subscription : public Napi::ObjectWrap<Subscription> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value subscribe(const Napi::CallbackInfo& info, const std::shared_ptr<Session>& session);

  explicit Subscription(const Napi::CallbackInfo& info);

 private:
  // `callback_id` is libvirt's, `id` that of the listener.
  struct Parts {
    std::shared_ptr<Session> session;
    std::uint64_t id;
    int callback_id;
  };

  Napi::Value close(const Napi::CallbackInfo& info);

  Parts parts_;
};

}  // namespace vesper::libvirt
