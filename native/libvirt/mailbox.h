// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace vesper::libvirt {

// Carries work from any thread to the event loop of one environment (the main thread or a worker_thread).
class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  using Message = std::function<void(Napi::Env)>;

  static std::shared_ptr<Mailbox> create(Napi::Env env);

  // From any thread. False: the environment is gone, and the message is dropped.
  bool post(Message message);

  // On the environment's thread: keeps its event loop alive between the two.
  void hold();
  void let_go();

  void close();

 private:
  explicit Mailbox(Napi::Env env) : env_(env) {}
  void wake();
  void deliver(Napi::Env env);

  const Napi::Env env_;
  std::mutex mutex_;
  Napi::ThreadSafeFunction wake_;
  std::deque<Message> messages_;
  bool awake_ = false;
  bool closed_ = false;
  unsigned holders_ = 0;
};

}  // namespace vesper::libvirt
