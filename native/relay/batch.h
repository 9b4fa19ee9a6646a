// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <memory>

#include "columns.h"

namespace vesper::relay {

// JavaScript: new Batch(records, arenaBytes). Columns as typed arrays over memory that is shared with the batch, so
// that detaching the buffer in JavaScript leaves no dangling pointer here.
class Batch : public Napi::ObjectWrap<Batch> {
 public:
  static Napi::Function define(Napi::Env env);
  // Throws a TypeError where `value` is no Batch.
  static Batch& from(const Napi::Value& value);

  explicit Batch(const Napi::CallbackInfo& info);
  Columns& columns() { return columns_; }

 private:
  std::shared_ptr<std::uint8_t> memory_;
  Columns columns_{};
};

}  // namespace vesper::relay
