// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <libvirt/libvirt.h>

#include <string>

#include "failure.h"

namespace vesper::libvirt {

// A list of libvirt's typed parameters.
class TypedParameters {
 public:
  TypedParameters() = default;
  ~TypedParameters() { virTypedParamsFree(list_, count_); }
  TypedParameters(const TypedParameters&) = delete;
  TypedParameters& operator=(const TypedParameters&) = delete;

  virTypedParameterPtr get() const { return list_; }
  int count() const { return count_; }

  void add(const char* field, const std::string& text) {
    checked(virTypedParamsAddString(&list_, &count_, &room_, field, text.c_str()), "virTypedParamsAddString");
  }
  void add(const char* field, unsigned long long number) {
    checked(virTypedParamsAddULLong(&list_, &count_, &room_, field, number), "virTypedParamsAddULLong");
  }
  void add(const char* field, int number) {
    checked(virTypedParamsAddInt(&list_, &count_, &room_, field, number), "virTypedParamsAddInt");
  }

  // `ask` has libvirt fill the list.
  template <typename Ask>
  void receive(Ask&& ask) {
    ask(&list_, &count_);
  }

 private:
  virTypedParameterPtr list_ = nullptr;
  int count_ = 0;
  int room_ = 0;
};

}  // namespace vesper::libvirt
