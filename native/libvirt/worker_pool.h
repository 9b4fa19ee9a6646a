// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

#include "job.h"

namespace vesper::libvirt {

// The threads of one connection, started as they are needed: a daemon that hangs holds up these and no others. They end
// after finish().
class WorkerPool : public std::enable_shared_from_this<WorkerPool> {
 public:
  // libvirtd takes five calls of a connection at a time (max_client_requests) and reads nothing more from it meanwhile,
  // not even the answers to its keep-alives: one fewer.
  static constexpr int kThreads = 4;

  // Throws std::system_error where no thread can be started.
  void submit(std::shared_ptr<Job> job);

  // Cancels what has not begun; `last` runs when all that has begun is at its end.
  void finish(std::shared_ptr<Job> last, const Failure& why);

  // Calls whose time limit has passed and that have not ended.
  int abandoned() const { return abandoned_; }

 private:
  void run();
  void start_worker();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> last_;
  int threads_ = 0;
  int idle_ = 0;
  int busy_ = 0;
  bool finishing_ = false;
  std::atomic<int> abandoned_ = 0;
};

}  // namespace vesper::libvirt
