// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

namespace vesper::libvirt {

struct Name {
  int value;
  const char* text;
};

inline std::string unnamed(int value) { return "unknown-" + std::to_string(value); }

inline std::string find(std::span<const Name> names, int value) {
  for (const Name& name : names) {
    if (name.value == value) return name.text;
  }
  return unnamed(value);
}

}  // namespace vesper::libvirt
