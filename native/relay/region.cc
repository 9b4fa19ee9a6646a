// SPDX-License-Identifier: Apache-2.0
#include "region.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "batch.h"
#include "js_error.h"
#include "wire_layout.h"

namespace vesper::relay {
namespace {

constexpr napi_type_tag kTag = {0x7665737065720002, 0x72656c6179000002};
constexpr std::size_t kStatisticsPerRing = 13;

std::uint64_t whole_number(const Napi::Object& from, const char* name) {
  const Napi::Value value = from.Get(name);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number < 9007199254740992.0) ||
      number != static_cast<double>(static_cast<std::uint64_t>(number))) {
    throw js_error(from.Env(), "EINVAL", std::string(name) + " has to be a whole number, not negative");
  }
  return static_cast<std::uint64_t>(number);
}

bool flag(const Napi::Object& from, const char* name) {
  const Napi::Value value = from.Get(name);
  return !value.IsUndefined() && value.ToBoolean().Value();
}

std::vector<RingGeometry> geometry_of(const Napi::Object& options) {
  const Napi::Value value = options.Get("rings");
  if (!value.IsArray()) throw js_error(options.Env(), "EINVAL", "rings has to be an array");
  const Napi::Array list = value.As<Napi::Array>();
  std::vector<RingGeometry> rings;
  for (std::uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value entry = list.Get(i);
    if (!entry.IsObject()) throw js_error(options.Env(), "EINVAL", "a ring has to be an object");
    const Napi::Object ring = entry.As<Napi::Object>();
    rings.push_back({.block_offset = whole_number(ring, "blockOffset"),
                     .data_offset = whole_number(ring, "dataOffset"),
                     .data_bytes = whole_number(ring, "dataBytes"),
                     .cpu = static_cast<std::uint16_t>(whole_number(ring, "cpu")),
                     .critical = flag(ring, "critical")});
  }
  return rings;
}

std::optional<std::vector<Piece>> pieces_of(const Napi::Object& options) {
  const Napi::Value value = options.Get("pieces");
  if (value.IsUndefined()) return std::nullopt;
  if (!value.IsArray()) throw js_error(options.Env(), "EINVAL", "pieces has to be an array");
  const Napi::Array list = value.As<Napi::Array>();
  if (list.Length() > kPiecesMax) throw js_error(options.Env(), "EINVAL", "a region has 1 … 256 pieces");
  std::vector<Piece> pieces;
  for (std::uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value entry = list.Get(i);
    if (!entry.IsObject()) throw js_error(options.Env(), "EINVAL", "a piece has to be an object");
    const Napi::Object piece = entry.As<Napi::Object>();
    pieces.push_back({.offset = whole_number(piece, "offset"), .bytes = whole_number(piece, "bytes")});
  }
  return pieces;
}

std::shared_ptr<Mapping> map_file(const File& file, std::uint64_t bytes,
                                  const std::optional<std::vector<Piece>>& pieces) {
  return pieces ? std::make_shared<Mapping>(file, bytes, *pieces) : std::make_shared<Mapping>(file, bytes);
}

std::shared_ptr<Mapping> map_region(const Napi::Value& file, std::uint64_t bytes,
                                    const std::optional<std::vector<Piece>>& pieces, bool writable) {
  if (file.IsNumber()) return map_file(File(file.As<Napi::Number>().Int32Value()), bytes, pieces);
  if (!file.IsString()) throw std::invalid_argument("a region file is a path or a file descriptor");
  return map_file(File(file.As<Napi::String>().Utf8Value(), writable), bytes, pieces);
}

// The pages of the control blocks: all the host ever writes to.
void allow_control_blocks(Mapping& mapping, const std::vector<RingGeometry>& rings) {
  if (rings.empty()) return;
  const auto by_block = [](const RingGeometry& a, const RingGeometry& b) { return a.block_offset < b.block_offset; };
  const auto [first, last] = std::minmax_element(rings.begin(), rings.end(), by_block);
  const std::uint64_t begin = first->block_offset & ~(kPageBytes - 1);
  const std::uint64_t end = (last->block_offset + kRingBlockBytes + kPageBytes - 1) & ~(kPageBytes - 1);
  mapping.allow_writes(begin, end - begin);
}

class CompareClocks : public Napi::AsyncWorker {
 public:
  CompareClocks(Napi::Env env, std::shared_ptr<ClockQuestions> questions, std::uint64_t limit_ns)
      : Napi::AsyncWorker(env), deferred_(env), questions_(std::move(questions)), limit_ns_(limit_ns) {}

  Napi::Promise promise() const { return deferred_.Promise(); }
  void Execute() override { sample_ = questions_->ask(limit_ns_); }

  void OnOK() override {
    if (!sample_.has_value()) return deferred_.Resolve(Env().Undefined());
    auto sample = Napi::Object::New(Env());
    sample.Set("askedNs", Napi::BigInt::New(Env(), sample_->asked_ns));
    sample.Set("guestNs", Napi::BigInt::New(Env(), sample_->guest_ns));
    sample.Set("answeredNs", Napi::BigInt::New(Env(), sample_->answered_ns));
    deferred_.Resolve(sample);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<ClockQuestions> questions_;
  const std::uint64_t limit_ns_;
  std::optional<ClockSample> sample_;
};

}  // namespace

Napi::Function Region::define(Napi::Env env) {
  return DefineClass(env, "Region",
                     {
                         InstanceMethod<&Region::drain>("drain"),
                         InstanceMethod<&Region::release>("release"),
                         InstanceMethod<&Region::reclaim>("reclaim"),
                         InstanceMethod<&Region::rewind>("rewind"),
                         InstanceMethod<&Region::history>("history"),
                         InstanceMethod<&Region::beyond>("beyond"),
                         InstanceMethod<&Region::has_data>("hasData"),
                         InstanceMethod<&Region::arm_wakeups>("armWakeups"),
                         InstanceMethod<&Region::disarm_wakeups>("disarmWakeups"),
                         InstanceMethod<&Region::statistics>("statistics"),
                         InstanceMethod<&Region::read>("read"),
                         InstanceMethod<&Region::read_into>("readInto"),
                         InstanceMethod<&Region::compare_clocks>("compareClocks"),
                         InstanceAccessor<&Region::truncated>("truncated"),
                         InstanceAccessor<&Region::closed>("closed"),
                         InstanceMethod<&Region::close>("close"),
                     });
}

Region& Region::from(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag)) {
    throw Napi::TypeError::New(value.Env(), "a Region is needed");
  }
  return *Unwrap(value.As<Napi::Object>());
}

Region::Region(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Region>(info) {
  const Napi::Env env = info.Env();
  if (!info[1].IsObject()) throw js_error(env, "EINVAL", "a region needs options");
  const Napi::Object options = info[1].As<Napi::Object>();
  const std::uint64_t bytes = whole_number(options, "bytes");
  const Napi::Value epoch = options.Get("epoch");
  if (!epoch.IsBigInt()) throw js_error(env, "EINVAL", "epoch has to be a bigint");
  bool lossless = false;
  const std::uint64_t epoch_number = epoch.As<Napi::BigInt>().Uint64Value(&lossless);
  const std::vector<RingGeometry> rings = geometry_of(options);
  const auto pieces = pieces_of(options);
  const bool resume = flag(options, "resume");
  writable_ = !flag(options, "readOnly");

  guarded(env, [&] {
    auto mapping = map_region(info[0], bytes, pieces, writable_);
    // Checks the geometry before anything is made writable.
    auto reader = std::make_shared<RegionReader>(
        RegionMemory{mapping->base(), bytes, &mapping->truncated(), mapping, pieces.has_value()}, rings, epoch_number,
        resume);
    if (writable_) allow_control_blocks(*mapping, rings);
    mapping_ = std::move(mapping);
    reader_ = std::move(reader);
    questions_ = std::make_shared<ClockQuestions>(reader_);
  });
  info.This().As<Napi::Object>().TypeTag(&kTag);
}

Region::~Region() { unmap(); }

void Region::unmap() {
  if (const auto poller = poller_.lock()) poller->remove(reader_.get());
  if (questions_ != nullptr) questions_->stop();
  questions_.reset();
  reader_.reset();
  mapping_.reset();
}

const std::shared_ptr<RegionReader>& Region::reader(Napi::Env env) const {
  if (reader_ == nullptr) throw js_error(env, "EBADF", "the region is closed");
  return reader_;
}

const std::shared_ptr<RegionReader>& Region::writable_reader(Napi::Env env) const {
  if (!writable_) throw js_error(env, "EROFS", "the region is mapped read-only");
  return reader(env);
}

Napi::Value Region::drain(const Napi::CallbackInfo& info) {
  Columns& columns = Batch::from(info[0]).columns();
  const std::uint32_t limit = info[1].IsNumber() ? info[1].As<Napi::Number>().Uint32Value() : columns.capacity;
  return Napi::Number::New(info.Env(), reader(info.Env())->drain(columns, limit));
}

void Region::release(const Napi::CallbackInfo& info) { writable_reader(info.Env())->release(); }

void Region::reclaim(const Napi::CallbackInfo& info) { writable_reader(info.Env())->reclaim(); }

void Region::rewind(const Napi::CallbackInfo& info) { reader(info.Env())->rewind(); }

Napi::Value Region::history(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), reader(info.Env())->history(Batch::from(info[0]).columns()));
}

Napi::Value Region::beyond(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), reader(info.Env())->beyond(Batch::from(info[0]).columns()));
}

Napi::Value Region::has_data(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), reader(info.Env())->has_data());
}

Napi::Value Region::arm_wakeups(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), writable_reader(info.Env())->arm());
}

void Region::disarm_wakeups(const Napi::CallbackInfo& info) { writable_reader(info.Env())->disarm(); }

void Region::statistics(const Napi::CallbackInfo& info) {
  const auto& rings = reader(info.Env())->rings();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
      info[0].As<Napi::TypedArray>().ElementLength() < rings.size() * kStatisticsPerRing) {
    throw js_error(info.Env(), "EINVAL", "a Float64Array of 13 numbers a ring is needed");
  }
  double* out = info[0].As<Napi::Float64Array>().Data();
  for (const Ring& ring : rings) {
    const RingStatistics s = ring.statistics();
    for (const std::uint64_t value :
         {static_cast<std::uint64_t>(s.fault), s.received, s.received_bytes, s.received_before, s.next_sequence, s.gaps,
          s.duplicates, s.late, s.paddings, s.guest_attempts, s.guest_lost, s.pending_bytes, s.overwritten}) {
      *out++ = static_cast<double>(value);
    }
  }
}

const std::uint8_t* Region::part(Napi::Env env, std::int64_t offset, std::int64_t bytes) const {
  const auto& from = *reader(env);
  const auto end = static_cast<std::int64_t>(from.bytes());
  if (offset < 0 || bytes < 0 || offset > end || bytes > end - offset) {
    throw js_error(env, "ERANGE", "outside the region");
  }
  return from.base() + offset;
}

Napi::Value Region::read(const Napi::CallbackInfo& info) {
  const std::int64_t bytes = info[1].ToNumber().Int64Value();
  const std::uint8_t* from = part(info.Env(), info[0].ToNumber().Int64Value(), bytes);
  auto copy = Napi::Uint8Array::New(info.Env(), static_cast<std::size_t>(bytes));
  std::memcpy(copy.Data(), from, static_cast<std::size_t>(bytes));
  return copy;
}

void Region::read_into(const Napi::CallbackInfo& info) {
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw js_error(info.Env(), "EINVAL", "a Uint8Array is needed");
  }
  auto into = info[1].As<Napi::Uint8Array>();
  const std::uint8_t* from =
      part(info.Env(), info[0].ToNumber().Int64Value(), static_cast<std::int64_t>(into.ByteLength()));
  std::memcpy(into.Data(), from, into.ByteLength());
}

Napi::Value Region::compare_clocks(const Napi::CallbackInfo& info) {
  writable_reader(info.Env());
  if (!info[0].IsNumber()) throw js_error(info.Env(), "EINVAL", "a time limit in ns is needed");
  const auto limit_ns = static_cast<std::uint64_t>(std::max(0.0, info[0].As<Napi::Number>().DoubleValue()));
  auto* work = new CompareClocks(info.Env(), questions_, limit_ns);
  work->Queue();  // deletes itself
  return work->promise();
}

Napi::Value Region::truncated(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), mapping_ != nullptr && mapping_->truncated().load());
}

Napi::Value Region::closed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), reader_ == nullptr);
}

void Region::close(const Napi::CallbackInfo&) { unmap(); }

}  // namespace vesper::relay
