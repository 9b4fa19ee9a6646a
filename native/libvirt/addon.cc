// SPDX-License-Identifier: Apache-2.0
#include <napi.h>

#include "connection.h"
#include "domain.h"
#include "environment.h"
#include "stream.h"
#include "subscription.h"

namespace vesper::libvirt {
namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto environment = std::make_unique<Environment>(env);
  environment->connection_class = Napi::Persistent(Connection::define(env));
  environment->domain_class = Napi::Persistent(Domain::define(env));
  environment->stream_class = Napi::Persistent(Stream::define(env));
  environment->subscription_class = Napi::Persistent(Subscription::define(env));
  exports.Set("Connection", environment->connection_class.Value());
  env.SetInstanceData(environment.release());
  return exports;
}

NODE_API_MODULE(libvirt, init)

}  // namespace
}  // namespace vesper::libvirt
