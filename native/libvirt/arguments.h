// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <chrono>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

namespace vesper::libvirt {

// The argument at `index` as a text. Throws TypeError.
std::string text_argument(const Napi::CallbackInfo& info, std::size_t index, const char* name);

// An options object; undefined is an empty one. Throws TypeError and RangeError.
class Options {
 public:
  Options(const Napi::CallbackInfo& info, std::size_t index);

  // The bits of the flags that are set to true.
  unsigned flags(std::initializer_list<std::pair<const char*, unsigned>> known) const;
  // The bits of the words of a list.
  unsigned words(const char* name, std::initializer_list<std::pair<const char*, unsigned>> known) const;
  // The value of one word.
  unsigned word(const char* name, std::initializer_list<std::pair<const char*, unsigned>> known,
                unsigned otherwise) const;
  std::optional<std::string> text(const char* name) const;
  std::optional<double> number(const char* name, double least, double most) const;
  std::chrono::milliseconds time_limit(std::chrono::milliseconds otherwise) const;
  Napi::Value get(const char* name) const;

 private:
  Napi::Env env_;
  std::optional<Napi::Object> object_;
};

}  // namespace vesper::libvirt
