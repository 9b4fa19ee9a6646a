// SPDX-License-Identifier: Apache-2.0
#include "batch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "js_error.h"
#include "wire_layout.h"

namespace vesper::relay {
namespace {

constexpr napi_type_tag kTag = {0x7665737065720001, 0x72656c6179000001};
constexpr std::size_t kAlign = 64;

std::size_t rounded(std::size_t bytes) { return (bytes + kAlign - 1) & ~(kAlign - 1); }

std::shared_ptr<std::uint8_t> allocate(std::size_t bytes) {
  void* memory = std::aligned_alloc(kAlign, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return {static_cast<std::uint8_t*>(memory), std::free};
}

}  // namespace

Napi::Function Batch::define(Napi::Env env) { return DefineClass(env, "Batch", {}); }

Batch& Batch::from(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag)) {
    throw Napi::TypeError::New(value.Env(), "a Batch is needed");
  }
  return *Unwrap(value.As<Napi::Object>());
}

Batch::Batch(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Batch>(info) {
  const Napi::Env env = info.Env();
  const double records = info[0].ToNumber().DoubleValue();
  const double arena = info[1].ToNumber().DoubleValue();
  if (!(records >= 4 && records <= 1 << 20) || !(arena >= 64 * kRecordMaxBytes && arena <= 1 << 30)) {
    throw js_error(env, "EINVAL", "a batch has 4 … 2^20 records and an arena of 64 KiB … 1 GiB");
  }
  columns_.capacity = static_cast<std::uint32_t>(records);
  columns_.arena_bytes = static_cast<std::uint32_t>(arena) & ~(kRecordAlign - 1);

  const std::size_t n = columns_.capacity;
  const std::size_t arena_room = rounded(columns_.arena_bytes);
  const std::size_t room8 = rounded(n * 8);
  const std::size_t room4 = rounded(n * 4);
  const std::size_t room2 = rounded(n * 2);
  const std::size_t bytes = arena_room + 2 * room8 + 2 * room4 + 4 * room2;
  memory_ = guarded(env, [&] { return allocate(bytes); });

  auto* shared = new std::shared_ptr<std::uint8_t>(memory_);
  const auto buffer = Napi::ArrayBuffer::New(
      env, memory_.get(), bytes, [](Napi::Env, void*, std::shared_ptr<std::uint8_t>* hold) { delete hold; }, shared);

  Napi::Object self = info.This().As<Napi::Object>();
  self.TypeTag(&kTag);
  std::size_t at = 0;
  const auto define_column = [&]<typename Array, typename Element>(const char* name, Element*& column,
                                                                   std::size_t elements, std::size_t room, Array) {
    column = reinterpret_cast<Element*>(memory_.get() + at);
    self.DefineProperty(Napi::PropertyDescriptor::Value(name, Array::New(env, elements, buffer, at), napi_enumerable));
    at += room;
  };
  define_column("arena", columns_.arena, columns_.arena_bytes, arena_room, Napi::Uint8Array());
  define_column("timeNs", columns_.time_ns, n, room8, Napi::Float64Array());
  define_column("sequence", columns_.sequence, n, room8, Napi::Float64Array());
  define_column("payloadOffset", columns_.payload_offset, n, room4, Napi::Uint32Array());
  define_column("payloadBytes", columns_.payload_bytes, n, room4, Napi::Uint32Array());
  define_column("slot", columns_.slot, n, room2, Napi::Uint16Array());
  define_column("event", columns_.event, n, room2, Napi::Uint16Array());
  define_column("cpu", columns_.cpu, n, room2, Napi::Uint16Array());
  define_column("ring", columns_.ring, n, room2, Napi::Uint16Array());
}

}  // namespace vesper::relay
