// SPDX-License-Identifier: Apache-2.0
#include "data.h"

namespace vesper::libvirt {
namespace {

Data value_of(const virTypedParameter& parameter) {
  switch (parameter.type) {
    case VIR_TYPED_PARAM_INT:
      return parameter.value.i;
    case VIR_TYPED_PARAM_UINT:
      return parameter.value.ui;
    case VIR_TYPED_PARAM_LLONG:
      return parameter.value.l;
    case VIR_TYPED_PARAM_ULLONG:
      return parameter.value.ul;
    case VIR_TYPED_PARAM_DOUBLE:
      return parameter.value.d;
    case VIR_TYPED_PARAM_BOOLEAN:
      return parameter.value.b != 0;
    case VIR_TYPED_PARAM_STRING:
      return static_cast<const char*>(parameter.value.s);
    default:
      return nullptr;
  }
}

}  // namespace

Fields fields_of(const virTypedParameter* parameters, int count) {
  Fields fields;
  fields.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) fields.emplace_back(parameters[i].field, value_of(parameters[i]));
  return fields;
}

}  // namespace vesper::libvirt
