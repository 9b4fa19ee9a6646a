// SPDX-License-Identifier: Apache-2.0
#include "feed.h"

#include <algorithm>
#include <utility>

#include "environment.h"
#include "listener.h"

namespace vesper::libvirt {
namespace {

constexpr std::size_t kChunkBytes = 64 << 10;

}  // namespace

void Feed::start(const StreamRef& stream) {
  auto self = std::make_unique<std::shared_ptr<Feed>>(shared_from_this());
  const virStreamEventCallback ready = [](virStreamPtr which, int events, void* opaque) {
    const auto feed = *static_cast<std::shared_ptr<Feed>*>(opaque);
    feed->ready(which, events);
  };
  checked(virStreamEventAddCallback(
              stream->get(), VIR_STREAM_EVENT_READABLE | VIR_STREAM_EVENT_ERROR | VIR_STREAM_EVENT_HANGUP, ready,
              self.get(), [](void* opaque) { delete static_cast<std::shared_ptr<Feed>*>(opaque); }),
          "virStreamEventAddCallback");
  self.release();
  stream->has_callback();
}

bool Feed::drain(virStreamPtr stream, std::vector<std::uint8_t>& bytes, std::optional<Failure>& why) {
  // As much as the backlog may take, lest a flood keep the thread of all connections for itself.
  while (backlog_ + bytes.size() < most_) {
    const std::size_t had = bytes.size();
    bytes.resize(had + kChunkBytes);
    const int got = virStreamRecv(stream, reinterpret_cast<char*>(bytes.data() + had), kChunkBytes);
    if (got == -1) why = Failure::last("virStreamRecv");
    bytes.resize(had + static_cast<std::size_t>(std::max(got, 0)));
    if (got == -2) return false;
    if (got <= 0) return true;
  }
  why = Failure("STREAM_OVERRUN", "more than " + std::to_string(most_) + " bytes wait for the stream's reader");
  return true;
}

// On the thread of libvirt's event loop.
void Feed::ready(virStreamPtr stream, int events) {
  std::vector<std::uint8_t> bytes;
  std::optional<Failure> why;
  const bool at_end = drain(stream, bytes, why) || (events & (VIR_STREAM_EVENT_ERROR | VIR_STREAM_EVENT_HANGUP)) != 0;
  if (at_end) virStreamEventUpdateCallback(stream, 0);
  backlog_ += bytes.size();
  const auto self = shared_from_this();
  if (!bytes.empty()) {
    mailbox_->post([self, bytes = std::move(bytes)](Napi::Env env) {
      self->backlog_ -= bytes.size();
      auto& readers = Environment::of(env).readers;
      const auto reader = readers.find(self->id_);
      if (reader == readers.end()) return;
      // The reader may end the stream while it runs.
      const auto on_data = reader->second.on_data.Value();
      tell(on_data, {Napi::Buffer<std::uint8_t>::Copy(env, bytes.data(), bytes.size())});
    });
  }
  if (at_end) {
    mailbox_->post([self, why = std::move(why)](Napi::Env env) { end(env, self->id_, why); });
  }
}

void Feed::end(Napi::Env env, std::uint64_t id, const std::optional<Failure>& why) {
  const auto reader = Environment::of(env).readers.extract(id);
  if (reader.empty()) return;
  const auto on_end = reader.mapped().on_end.Value();
  tell(on_end, {why ? why->to_js(env).Value() : env.Undefined()});
}

}  // namespace vesper::libvirt
