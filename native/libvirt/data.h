// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <libvirt/libvirt.h>

#include <cstddef>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "reference.h"

namespace vesper::libvirt {

struct Data;
using List = std::vector<Data>;
using Fields = std::vector<std::pair<std::string, Data>>;

// What a call returns and an event carries: made on threads that must not touch JavaScript. Empty: undefined.
struct Data {
  std::variant<std::monostate, std::nullptr_t, bool, double, std::string, List, Fields, DomainRef> held;

  Data() = default;
  Data(std::nullptr_t) : held(nullptr) {}
  Data(bool flag) : held(flag) {}
  Data(double number) : held(number) {}
  Data(int number) : held(static_cast<double>(number)) {}
  Data(unsigned number) : held(static_cast<double>(number)) {}
  Data(long long number) : held(static_cast<double>(number)) {}
  Data(unsigned long long number) : held(static_cast<double>(number)) {}
  Data(unsigned long number) : held(static_cast<double>(number)) {}
  Data(std::string text) : held(std::move(text)) {}
  // A text of libvirt's that may be missing.
  Data(const char* text) {
    if (text == nullptr)
      held = nullptr;
    else
      held = std::string(text);
  }
  Data(List list) : held(std::move(list)) {}
  Data(Fields fields) : held(std::move(fields)) {}
  Data(DomainRef domain) : held(std::move(domain)) {}
};

Fields fields_of(const virTypedParameter* parameters, int count);

}  // namespace vesper::libvirt
