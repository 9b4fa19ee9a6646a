// SPDX-License-Identifier: Apache-2.0
#include "arguments.h"

#include <cmath>

namespace vesper::libvirt {
namespace {

using Words = std::initializer_list<std::pair<const char*, unsigned>>;

unsigned value_of(Napi::Env env, const char* name, const std::string& word, Words known) {
  std::string choices;
  for (const auto& [text, value] : known) {
    if (word == text) return value;
    choices += (choices.empty() ? "" : ", ") + std::string(text);
  }
  throw Napi::TypeError::New(env, std::string(name) + ": \"" + word + "\" is none of " + choices);
}

}  // namespace

std::string text_argument(const Napi::CallbackInfo& info, std::size_t index, const char* name) {
  if (!info[index].IsString()) throw Napi::TypeError::New(info.Env(), std::string(name) + " has to be a string");
  return info[index].As<Napi::String>();
}

Options::Options(const Napi::CallbackInfo& info, std::size_t index) : env_(info.Env()) {
  if (info[index].IsUndefined()) return;
  if (!info[index].IsObject()) throw Napi::TypeError::New(env_, "the options have to be an object");
  object_ = info[index].As<Napi::Object>();
}

Napi::Value Options::get(const char* name) const { return object_ ? object_->Get(name) : env_.Undefined(); }

unsigned Options::flags(Words known) const {
  unsigned bits = 0;
  for (const auto& [name, bit] : known) {
    if (get(name).ToBoolean()) bits |= bit;
  }
  return bits;
}

unsigned Options::words(const char* name, Words known) const {
  const Napi::Value list = get(name);
  if (list.IsUndefined()) return 0;
  if (!list.IsArray()) throw Napi::TypeError::New(env_, std::string(name) + " has to be a list");
  unsigned bits = 0;
  const auto array = list.As<Napi::Array>();
  for (std::uint32_t i = 0; i < array.Length(); ++i)
    bits |= value_of(env_, name, array.Get(i).ToString().Utf8Value(), known);
  return bits;
}

unsigned Options::word(const char* name, Words known, unsigned otherwise) const {
  const auto chosen = text(name);
  return chosen ? value_of(env_, name, *chosen, known) : otherwise;
}

std::optional<std::string> Options::text(const char* name) const {
  const Napi::Value value = get(name);
  if (value.IsUndefined()) return std::nullopt;
  if (!value.IsString()) throw Napi::TypeError::New(env_, std::string(name) + " has to be a string");
  return value.As<Napi::String>().Utf8Value();
}

std::optional<double> Options::number(const char* name, double least, double most) const {
  const Napi::Value value = get(name);
  if (value.IsUndefined()) return std::nullopt;
  if (!value.IsNumber()) throw Napi::TypeError::New(env_, std::string(name) + " has to be a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= least && number <= most) || number != std::floor(number)) {
    throw Napi::RangeError::New(env_, std::string(name) + " has to be a whole number of " +
                                          std::to_string(static_cast<long long>(least)) + " … " +
                                          std::to_string(static_cast<long long>(most)));
  }
  return number;
}

std::chrono::milliseconds Options::time_limit(std::chrono::milliseconds otherwise) const {
  constexpr double kDay = 86'400'000;
  const auto limit = number("timeLimitMs", 1, kDay);
  return limit ? std::chrono::milliseconds(static_cast<std::int64_t>(*limit)) : otherwise;
}

}  // namespace vesper::libvirt
