// SPDX-License-Identifier: Apache-2.0
#include "mailbox.h"

#include <chrono>
#include <utility>

namespace vesper::libvirt {
namespace {

// Before the rest of the event loop gets its turn.
constexpr auto kTurn = std::chrono::milliseconds(4);

}  // namespace

std::shared_ptr<Mailbox> Mailbox::create(Napi::Env env) {
  std::shared_ptr<Mailbox> mailbox(new Mailbox(env));
  const auto nothing = Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
  mailbox->wake_ = Napi::ThreadSafeFunction::New(env, nothing, "vesper-libvirt", 0, 1);
  mailbox->wake_.Unref(env);
  // Added after the hook of the thread-safe function, so it runs before it.
  env.AddCleanupHook([mailbox] { mailbox->close(); });
  return mailbox;
}

bool Mailbox::post(Message message) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  messages_.push_back(std::move(message));
  if (!awake_) wake();
  return true;
}

void Mailbox::wake() {
  awake_ = true;
  wake_.NonBlockingCall([mailbox = weak_from_this()](Napi::Env env, Napi::Function) {
    const auto alive = mailbox.lock();
    if (static_cast<napi_env>(env) != nullptr && alive != nullptr) alive->deliver(env);
  });
}

void Mailbox::deliver(Napi::Env env) {
  const auto end = std::chrono::steady_clock::now() + kTurn;
  do {
    Message message;
    {
      const std::lock_guard lock(mutex_);
      if (messages_.empty()) {
        awake_ = false;
        return;
      }
      message = std::move(messages_.front());
      messages_.pop_front();
    }
    const Napi::HandleScope scope(env);
    try {
      message(env);
    } catch (const Napi::Error& thrown) {
      // Only an environment that is being torn down throws here; the next message may still matter to somebody.
      napi_fatal_exception(env, thrown.Value());
    }
  } while (std::chrono::steady_clock::now() < end);
  const std::lock_guard lock(mutex_);
  awake_ = false;
  if (!closed_ && !messages_.empty()) wake();
}

void Mailbox::hold() {
  if (holders_++ == 0) wake_.Ref(env_);
}

void Mailbox::let_go() {
  if (--holders_ == 0) wake_.Unref(env_);
}

void Mailbox::close() {
  std::deque<Message> undelivered;
  const std::lock_guard lock(mutex_);
  closed_ = true;
  undelivered.swap(messages_);
}

}  // namespace vesper::libvirt
