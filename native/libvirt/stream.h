// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "reference.h"
#include "session.h"

namespace vesper::libvirt {

// JavaScript: a channel or console of a domain, both directions. Dropping it changes nothing while it has a reader: it
// lasts until close(), its end, or the end of its connection.
class Stream : public Napi::ObjectWrap<Stream> {
 public:
  // On a thread that may block: ties the stream to its device. Throws Failure.
  using Open = std::function<void(virStreamPtr)>;

  static Napi::Function define(Napi::Env env);
  // info[1]: the reader of bytes, info[2]: the function told of the end, info[3]: options.
  static Napi::Value open(const Napi::CallbackInfo& info, const std::shared_ptr<Session>& session, Open open);

  explicit Stream(const Napi::CallbackInfo& info);

 private:
  struct Parts {
    std::shared_ptr<Session> session;
    std::uint64_t id;
  };

  // Empty: it is at its end.
  StreamRef reference(Napi::Env env) const;
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value closed(const Napi::CallbackInfo& info);

  Parts parts_;
  enum class Writing { kIdle, kBusy, kBroken };
  // Shared with the write under way.
  std::shared_ptr<Writing> writing_ = std::make_shared<Writing>(Writing::kIdle);
};

}  // namespace vesper::libvirt
