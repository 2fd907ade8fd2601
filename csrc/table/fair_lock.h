// FairLock: many readers or one writer, and a writer that waits is let in before readers that come after it.
// (std::shared_mutex alone may keep a writer waiting for ever under a steady stream of readers.)
//
// Thread safety: every member may be called from any thread.
// Invariants:
//   1. A writer waits only for the readers that were inside when it came.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace headrace {

class FairLock {
 public:
  void lock() {
    gate_.lock();
    inside_.lock();
    gate_.unlock();
  }
  void unlock() { inside_.unlock(); }

  void lock_shared() {
    gate_.lock();
    inside_.lock_shared();
    gate_.unlock();
  }
  void unlock_shared() { inside_.unlock_shared(); }

 private:
  std::mutex gate_;
  std::shared_mutex inside_;
};

}  // namespace headrace
