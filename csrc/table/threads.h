// Threads: one pool for the process, for calls that are worth splitting.
//
// Thread safety: For may be called from any thread; while one caller uses the pool, others do their tasks
// alone. Invariants:
//   1. For returns when every task has ended. What tasks write is seen by the caller.
//   2. After a fork the child starts with no pool and makes its own.
#pragma once

#include <cstdint>
#include <type_traits>

namespace headrace {

class Threads {
 public:
  // Runs task(0) ... task(tasks - 1), on at most `threads` threads, the caller's among them. Tasks must not
  // throw.
  template <typename Task>
  static void For(int64_t tasks, int threads, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    Run(tasks, threads, const_cast<void*>(static_cast<const void*>(&task)),
        [](void* context, int64_t index) { (*static_cast<Plain*>(context))(index); });
  }

 private:
  using Call = void (*)(void* context, int64_t index);
  static void Run(int64_t tasks, int threads, void* context, Call call);
};

}  // namespace headrace
