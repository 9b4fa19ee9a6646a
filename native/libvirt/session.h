// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "environment.h"
#include "job.h"
#include "mailbox.h"
#include "reference.h"
#include "worker_pool.h"

namespace vesper::libvirt {

class Domain;

struct OpenRequest {
  std::string uri;
  bool read_only = false;
  // Seconds, and how many may stay unanswered; nothing: no keep-alive.
  std::optional<std::pair<int, unsigned>> keep_alive;
  // By the name of the credential.
  std::map<std::string, std::string> credentials;
  std::chrono::milliseconds limit;
};

// One connection as the environment's thread sees it: its threads, and what hangs on it. Shared by the JavaScript
// objects and the calls that need it; when the last is gone it is closed, wherever that is.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<Mailbox> mailbox, std::string uri, std::chrono::milliseconds limit)
      : pool_(std::make_shared<WorkerPool>()), mailbox_(std::move(mailbox)), uri_(std::move(uri)), limit_(limit) {}
  ~Session() { shut(nullptr, limit_); }

  // A promise of a session, as `convert` makes it.
  static Napi::Promise open(Napi::Env env, OpenRequest request,
                            std::function<Napi::Value(Napi::Env, const std::shared_ptr<Session>&)> convert);

  // Runs `work` on a thread of the connection; `convert` makes JavaScript of what it returns, by default to_js().
  Napi::Promise start(Napi::Env env, std::chrono::milliseconds limit, Job::Work work,
                      Environment::Convert convert = nullptr, Environment::Failed failed = nullptr);

  Napi::Promise close(Napi::Env env, std::chrono::milliseconds limit);

  // Empty while it is open; else why it is closed.
  const std::string& closed() const { return closed_; }
  Failure closed_failure() const;
  // Throws Failure where it is closed.
  const ConnectionRef& reference() const;

  std::chrono::milliseconds limit() const { return limit_; }
  int abandoned() const { return pool_->abandoned(); }
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }

  Napi::Value to_js(Napi::Env env, const Data& value);

  std::unordered_set<Domain*> domains;

 private:
  Data connect(const OpenRequest& request);
  void shut(Job::Settle settle, std::chrono::milliseconds limit);
  void end(Napi::Env env, const std::string& reason);

  const std::shared_ptr<WorkerPool> pool_;
  const std::shared_ptr<Mailbox> mailbox_;
  const std::string uri_;
  const std::chrono::milliseconds limit_;
  ConnectionRef connection_;
  std::string closed_;
};

}  // namespace vesper::libvirt
