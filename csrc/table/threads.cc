#include "table/threads.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace headrace {
namespace {

constexpr int kMaxThreads = 64;
constexpr int kSpins = 2000;  // a few tens of microseconds: the next phase of a step usually comes sooner

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Workers sleep until `round` moves; who gets a ticket takes tasks until there are none, and counts itself
// out.
class Pool {
 public:
  ~Pool() {
    stop_.store(true);
    round_.fetch_add(1);
    round_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void Run(int64_t tasks, int threads, void* context, void (*call)(void*, int64_t)) {
    const int wanted = static_cast<int>(std::min<int64_t>({tasks, threads, kMaxThreads})) - 1;
    while (static_cast<int>(workers_.size()) < wanted && Add()) {
    }
    const int helpers = std::min(wanted, static_cast<int>(workers_.size()));
    tasks_ = tasks;
    context_ = context;
    call_ = call;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(helpers, std::memory_order_relaxed);
    tickets_.store(helpers, std::memory_order_release);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    Work();
    const int unused =
        tickets_.exchange(0, std::memory_order_acq_rel);  // nobody waits for who did not wake in time
    if (unused > 0) busy_.fetch_sub(unused, std::memory_order_acq_rel);
    for (int spins = 0;; ++spins) {
      const int busy = busy_.load(std::memory_order_acquire);
      if (busy == 0) return;
      if (spins < kSpins) {
        Pause();
      } else {
        busy_.wait(busy, std::memory_order_acquire);
      }
    }
  }

 private:
  bool Add() {
    try {
      workers_.emplace_back([this, seen = round_.load()]() mutable { Loop(seen); });
      return true;
    } catch (const std::system_error&) {
      return false;  // the system gives no more threads: do with what there are
    }
  }

  void Loop(uint32_t seen) {
    for (;;) {
      for (int spins = 0; spins < kSpins && round_.load(std::memory_order_acquire) == seen; ++spins) Pause();
      round_.wait(seen, std::memory_order_acquire);
      seen = round_.load(std::memory_order_acquire);
      if (stop_.load()) return;
      if (tickets_.fetch_sub(1, std::memory_order_acq_rel) <= 0) continue;
      Work();
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
    }
  }

  void Work() {
    for (int64_t i = next_.fetch_add(1); i < tasks_; i = next_.fetch_add(1)) call_(context_, i);
  }

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> round_{0};
  std::atomic<int> tickets_{0};  // helpers that may still join the round; each is counted in busy_
  std::atomic<int> busy_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  int64_t tasks_ = 0;
  void* context_ = nullptr;
  void (*call_)(void*, int64_t) = nullptr;
};

struct Shared {
  std::mutex lock;
  std::unique_ptr<Pool> pool;
};

// Never destroyed: a worker must not outlive what it uses at exit, and other threads may still be running
// then.
Shared* shared = nullptr;
std::once_flag once;

void Start() {
  shared = new Shared;
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr,
                 [] { shared = new Shared; });  // the child has none of the parent's threads
#endif
}

}  // namespace

void Threads::Run(int64_t tasks, int threads, void* context, Call call) {
  if (tasks > 1 && threads > 1) {
    std::call_once(once, Start);
    const std::unique_lock guard(shared->lock, std::try_to_lock);
    if (guard.owns_lock()) {
      if (!shared->pool) shared->pool = std::make_unique<Pool>();
      shared->pool->Run(tasks, threads, context, call);
      return;
    }
  }
  for (int64_t i = 0; i < tasks; ++i) call(context, i);
}

}  // namespace headrace
