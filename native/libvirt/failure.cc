// SPDX-License-Identifier: Apache-2.0
#include "failure.h"

#include <libvirt/virterror.h>

#include "names.h"

namespace vesper::libvirt {

Failure Failure::last(const char* call) {
  const virErrorPtr error = virGetLastError();
  const bool known = error != nullptr && error->code != VIR_ERR_OK;
  const int code = known ? error->code : VIR_ERR_INTERNAL_ERROR;
  const char* message = known && error->message != nullptr ? error->message : "libvirt gave no reason";
  Failure failure("", message);
  failure.code = error_code_name(code);
  failure.call = call;
  failure.libvirt_code = code;
  failure.libvirt_domain = known ? error->domain : VIR_FROM_NONE;
  return failure;
}

Napi::Error Failure::to_js(Napi::Env env) const {
  Napi::Error error = Napi::Error::New(env, what());
  const Napi::Object object = error.Value();
  object.DefineProperty(
      Napi::PropertyDescriptor::Value("name", Napi::String::New(env, "LibvirtError"), napi_default_method));
  object.Set("code", Napi::String::New(env, code));
  if (call == nullptr) return error;
  object.Set("call", Napi::String::New(env, call));
  object.Set("libvirtCode", Napi::Number::New(env, libvirt_code));
  object.Set("libvirtDomain", Napi::Number::New(env, libvirt_domain));
  object.Set("source", Napi::String::New(env, error_domain_name(libvirt_domain)));
  return error;
}

}  // namespace vesper::libvirt
