// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "failure.h"
#include "mailbox.h"
#include "reference.h"

namespace vesper::libvirt {

// Carries what comes in on a stream from libvirt's event loop to its reader in JavaScript, and the end of it. libvirt's
// protocol cannot be held back on one stream, so what waits for the reader is bounded: a stream whose reader does not
// keep up ends with STREAM_OVERRUN.
class Feed : public std::enable_shared_from_this<Feed> {
 public:
  Feed(std::shared_ptr<Mailbox> mailbox, std::uint64_t id, std::size_t backlog_bytes)
      : mailbox_(std::move(mailbox)), id_(id), most_(backlog_bytes) {}

  // On a thread that may block. Throws Failure.
  void start(const StreamRef& stream);

  // On the environment's thread: the reader is told once.
  static void end(Napi::Env env, std::uint64_t id, const std::optional<Failure>& why);

 private:
  void ready(virStreamPtr stream, int events);
  // Adds what there is to `bytes`. True: it is at its end.
  bool drain(virStreamPtr stream, std::vector<std::uint8_t>& bytes, std::optional<Failure>& why);

  const std::shared_ptr<Mailbox> mailbox_;
  const std::uint64_t id_;
  const std::size_t most_;
  std::atomic<std::size_t> backlog_ = 0;
};

}  // namespace vesper::libvirt
