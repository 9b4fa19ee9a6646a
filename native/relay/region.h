// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <memory>

#include "clock_questions.h"
#include "mapping.h"
#include "poller.h"
#include "region_reader.h"

namespace vesper::relay {

// JavaScript: new Region(file, options). One mapped region of one epoch; see host/relay/native.ts for its shape.
class Region : public Napi::ObjectWrap<Region> {
 public:
  static Napi::Function define(Napi::Env env);
  // Throws a TypeError where `value` is no Region.
  static Region& from(const Napi::Value& value);

  explicit Region(const Napi::CallbackInfo& info);
  ~Region() override;

  // Throws where it is closed.
  const std::shared_ptr<RegionReader>& reader(Napi::Env env) const;
  // As reader(), and throws where it was mapped read-only.
  const std::shared_ptr<RegionReader>& writable_reader(Napi::Env env) const;
  // nullptr where it is closed.
  const RegionReader* key() const { return reader_.get(); }
  // Whoever polls the region has to let go before it is unmapped.
  void polled_by(std::weak_ptr<Poller> poller) { poller_ = std::move(poller); }

 private:
  Napi::Value drain(const Napi::CallbackInfo& info);
  void release(const Napi::CallbackInfo& info);
  void reclaim(const Napi::CallbackInfo& info);
  void rewind(const Napi::CallbackInfo& info);
  Napi::Value history(const Napi::CallbackInfo& info);
  Napi::Value beyond(const Napi::CallbackInfo& info);
  Napi::Value has_data(const Napi::CallbackInfo& info);
  Napi::Value arm_wakeups(const Napi::CallbackInfo& info);
  void disarm_wakeups(const Napi::CallbackInfo& info);
  void statistics(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  void read_into(const Napi::CallbackInfo& info);
  // Throws where that is not inside the region.
  const std::uint8_t* part(Napi::Env env, std::int64_t offset, std::int64_t bytes) const;
  Napi::Value compare_clocks(const Napi::CallbackInfo& info);
  Napi::Value truncated(const Napi::CallbackInfo& info);
  Napi::Value closed(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
  void unmap();

  std::shared_ptr<Mapping> mapping_;
  std::shared_ptr<RegionReader> reader_;
  std::shared_ptr<ClockQuestions> questions_;
  std::weak_ptr<Poller> poller_;
  bool writable_ = true;
};

}  // namespace vesper::relay
