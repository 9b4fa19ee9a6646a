// SPDX-License-Identifier: Apache-2.0
#include "stream.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "environment.h"
#include "feed.h"

namespace vesper::libvirt {
namespace {

// A message of libvirt's protocol carries 256 KiB at most, headers included.
constexpr std::size_t kChunkBytes = 128 << 10;

void send_all(virStreamPtr stream, const std::vector<char>& bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    const int taken = virStreamSend(stream, bytes.data() + sent, std::min(kChunkBytes, bytes.size() - sent));
    if (taken == -1) throw Failure::last("virStreamSend");
    if (taken == -2) {
      // Drivers that do not wait by themselves; the one for remote daemons does.
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    sent += static_cast<std::size_t>(taken);
  }
}

}  // namespace

Napi::Function Stream::define(Napi::Env env) {
  return DefineClass(env, "Stream",
                     {
                         InstanceMethod<&Stream::write>("write"),
                         InstanceMethod<&Stream::close>("close"),
                         InstanceAccessor<&Stream::closed>("closed"),
                     });
}

Stream::Stream(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Stream>(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a stream comes from a domain");
  parts_ = *info[0].As<Napi::External<Parts>>().Data();
}

Napi::Value Stream::open(const Napi::CallbackInfo& info, const std::shared_ptr<Session>& session, Open open) {
  const Napi::Env env = info.Env();
  if (!info[1].IsFunction() || !info[2].IsFunction())
    throw Napi::TypeError::New(env, "a stream needs a function for its bytes and one for its end");
  const Options options(info, 3);
  const auto limit = options.time_limit(session->limit());
  const auto backlog = options.number("backlogBytes", 1 << 16, 1 << 30).value_or(16 << 20);
  if (!session->closed().empty()) return rejected(env, session->closed_failure());

  auto& environment = Environment::of(env);
  const std::uint64_t id = environment.next_id();
  environment.readers.emplace(id, Environment::Reader{session, nullptr, Napi::Persistent(info[1].As<Napi::Function>()),
                                                      Napi::Persistent(info[2].As<Napi::Function>())});
  const auto opened = std::make_shared<StreamRef>();
  const auto feed = std::make_shared<Feed>(environment.mailbox, id, static_cast<std::size_t>(backlog));
  const auto work = [connection = session->reference(), open = std::move(open), opened, feed]() -> Data {
    *opened =
        OpenStream::adopt(connection, checked(virStreamNew(connection->get(), VIR_STREAM_NONBLOCK), "virStreamNew"));
    open((*opened)->get());
    feed->start(*opened);
    return {};
  };
  const auto convert = [session, opened, id](Napi::Env js, const Data&) -> Napi::Value {
    auto& readers = Environment::of(js).readers;
    const auto reader = readers.find(id);
    if (reader != readers.end()) reader->second.stream = *opened;
    Parts parts{session, id};
    return Environment::of(js).stream_class.New({Napi::External<Parts>::New(js, &parts)});
  };
  return session->start(env, limit, work, convert, [env, id] { Environment::of(env).readers.erase(id); });
}

StreamRef Stream::reference(Napi::Env env) const {
  const auto& readers = Environment::of(env).readers;
  const auto reader = readers.find(parts_.id);
  return reader == readers.end() ? nullptr : reader->second.stream;
}

Napi::Value Stream::write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw Napi::TypeError::New(env, "the bytes have to be a Uint8Array");
  const auto limit = Options(info, 1).time_limit(parts_.session->limit());
  const StreamRef stream = reference(env);
  if (stream == nullptr) return rejected(env, Failure("CLOSED", "the stream is at its end"));
  if (*writing_ == Writing::kBusy)
    return rejected(env, Failure("STREAM_BUSY", "one write at a time: the one before has not ended"));
  if (*writing_ == Writing::kBroken)
    return rejected(env, Failure("CLOSED", "a write failed, and nobody knows how much of it arrived"));

  const auto array = info[0].As<Napi::Uint8Array>();
  *writing_ = Writing::kBusy;
  const auto work = [stream, bytes = std::vector<char>(array.Data(), array.Data() + array.ByteLength())]() -> Data {
    send_all(stream->get(), bytes);
    return {};
  };
  const auto convert = [writing = writing_](Napi::Env js, const Data&) -> Napi::Value {
    *writing = Writing::kIdle;
    return js.Undefined();
  };
  return parts_.session->start(env, limit, work, convert, [writing = writing_] { *writing = Writing::kBroken; });
}

Napi::Value Stream::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto limit = Options(info, 0).time_limit(parts_.session->limit());
  StreamRef stream = reference(env);
  Environment::of(env).readers.erase(parts_.id);
  if (stream == nullptr) {
    const auto done = Napi::Promise::Deferred::New(env);
    done.Resolve(env.Undefined());
    return done.Promise();
  }
  // The job lets go of it.
  return parts_.session->start(env, limit, [stream = std::move(stream)] { return Data(); });
}

Napi::Value Stream::closed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), reference(info.Env()) == nullptr);
}

}  // namespace vesper::libvirt
