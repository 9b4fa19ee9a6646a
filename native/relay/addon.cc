// SPDX-License-Identifier: Apache-2.0
#include <napi.h>

#include "batch.h"
#include "peer.h"
#include "region.h"
#include "region_server.h"
#include "watcher.h"
#include "wire_layout.h"

namespace vesper::relay {
namespace {

// What the reader believes about the layout, for the test that compares it with host/wire/region.ts.
Napi::Object layout(Napi::Env env) {
  const std::pair<const char*, double> values[] = {
      {"regionEpoch", kRegionEpoch},
      {"pageBytes", kPageBytes},
      {"ringBlockBytes", kRingBlockBytes},
      {"ringMinBytes", kRingMinBytes},
      {"blockHead", kBlockHead},
      {"blockAttempts", kBlockAttempts},
      {"blockLost", kBlockLost},
      {"blockClockAnswer", kBlockClockAnswer},
      {"blockClockNs", kBlockClockNs},
      {"blockTail", kBlockTail},
      {"blockNeedWakeup", kBlockNeedWakeup},
      {"blockJournal", kBlockJournal},
      {"blockClockQuestion", kBlockClockQuestion},
      {"recordTag", kRecordTag},
      {"recordLength", kRecordLength},
      {"recordSlot", kRecordSlot},
      {"recordEvent", kRecordEvent},
      {"recordCpu", kRecordCpu},
      {"recordFlags", kRecordFlags},
      {"recordTime", kRecordTime},
      {"recordSequence", kRecordSequence},
      {"recordHeaderBytes", kRecordHeaderBytes},
      {"recordAlign", kRecordAlign},
      {"recordMaxBytes", kRecordMaxBytes},
      {"recordPad", kRecordPad},
  };
  auto object = Napi::Object::New(env);
  for (const auto& [name, value] : values) object.Set(name, Napi::Number::New(env, value));
  return object;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("Region", Region::define(env));
  exports.Set("Batch", Batch::define(env));
  exports.Set("Watcher", Watcher::define(env));
  exports.Set("RegionServer", RegionServer::define(env));
  exports.Set("makeDoorbell", Napi::Function::New(env, make_doorbell, "makeDoorbell"));
  exports.Set("peerProcess", Napi::Function::New(env, peer_process, "peerProcess"));
  exports.Set("layout", layout(env));
  return exports;
}

NODE_API_MODULE(relay, init)

}  // namespace
}  // namespace vesper::relay
