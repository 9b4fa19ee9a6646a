// SPDX-License-Identifier: Apache-2.0
#include "worker_pool.h"

#include <utility>

#include "deadlines.h"
#include "reference.h"
#include "thread.h"

namespace vesper::libvirt {

void WorkerPool::start_worker() {
  start_thread("libvirt-call", [pool = shared_from_this()] { pool->run(); });
  ++threads_;
}

void WorkerPool::submit(std::shared_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    if (idle_ <= static_cast<int>(queue_.size()) && threads_ < kThreads) start_worker();
    queue_.push_back(job);
  }
  changed_.notify_one();
  Deadlines::instance().add(job);
}

void WorkerPool::finish(std::shared_ptr<Job> last, const Failure& why) {
  std::deque<std::shared_ptr<Job>> cancelled;
  {
    const std::lock_guard lock(mutex_);
    if (finishing_) return;
    if (threads_ == 0) start_worker();
    finishing_ = true;
    last_ = last;
    cancelled.swap(queue_);
  }
  changed_.notify_all();
  Deadlines::instance().add(last);
  for (const auto& job : cancelled) job->cancel(why);
}

void WorkerPool::run() {
  allow_blocking();
  std::unique_lock lock(mutex_);
  for (;;) {
    std::shared_ptr<Job> job;
    if (!queue_.empty()) {
      job = std::move(queue_.front());
      queue_.pop_front();
    } else if (finishing_) {
      if (busy_ > 0 || last_ == nullptr) return;
      job = std::exchange(last_, nullptr);
    } else {
      ++idle_;
      changed_.wait(lock);
      --idle_;
      continue;
    }
    ++busy_;
    lock.unlock();
    job->run(abandoned_);
    job.reset();
    lock.lock();
    --busy_;
  }
}

}  // namespace vesper::libvirt
